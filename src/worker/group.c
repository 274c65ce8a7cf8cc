#include "worker/group.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/clock.h"
#include "base/name.h"
#include "base/sys.h"
#include "fs/move.h"
#include "fs/path.h"
#include "fs/retire.h"
#include "fs/writers.h"

enum {
    GROUP_MAX = MOVE_TOGETHER_MAX, /* past it the shared costs are small */
    FILES_EACH = 10, /* descriptors of a job: two directories of a move and two of a retirement,
                      * both files of each, its box, and one on the way to the API */
    FILES_KEPT = 40, /* connections, the standard ones, what is open for a moment */
    GROUP_BYTES =
        4 * 1024 * 1024,    /* to copy at once: some ten milliseconds for the first of them */
    POST_TIMEOUT_MS = 5000, /* the API answers within its own 0.9 s time-outs */
    ATTEMPTS_MAX = 5,
    QUIET_S = 15,       /* about as long as these take */
    ROUNDING_MS = 2000, /* file systems and databases count in seconds */
    BEHIND_MAX = 60,    /* waits for a database that lags: an hour, then it lost the commit */
    CRASHES_MAX = 5,
    BACKOFF_FIRST_MS = 1000,
    BACKOFF_MAX_MS = 60000,
    AWAY_DELAY_MS = 1000,     /* database away: costs no attempt; doubled up to */
    AWAY_MAX_MS = 10000,      /* so that what came back is noticed soon */
    ASK_FIRST_MS = 250,       /* the API takes no commit: one asks for all again, doubled up to */
    ASK_MAX_MS = 4000,        /* so that what came back is noticed soon */
    NOSPACE_DELAY_MS = 10000, /* no room: somebody has to make some; doubled as BUSY is */
    BUSY_DELAY_MS = 2000,     /* doubled with each further time, up to BACKOFF_MAX_MS */
    STALE_DELAY_MS = 100, /* what was read is not what stands there: a post came, or junk stays */
    TELL_MS = 1000,       /* progress is told at most this often */
    HANGS_MS = 1000,      /* a try that takes longer came to its time-out */
    TICK_MS = 100,        /* between two looks at the lease, while the bandwidth makes us wait */
    CHUNK_LEAST_BYTES = 64 * 1024,      /* copied at once under a low bandwidth */
    CHUNK_MOST_BYTES = 8 * 1024 * 1024, /* some 100 ms on a slow disk */
    TEXT_BYTES = JOB_NAME_BYTES + 2 * JOB_LEVEL_BYTES + 64,
};

#define BEHIND_TEXT "the database does not say so yet"
#define TAKEN_TEXT  "another program says that it moved the file; the catalogue is still to be told"

/* What a job waits for. Steps in the order in which they are made; most jobs skip some. */
enum step {
    STEP_LOOK,    /* its row */
    STEP_CLEAR,   /* spare copies that would be in the way of a move */
    STEP_OPEN,    /* a move: its files */
    STEP_STAGE,   /* a copy without a name */
    STEP_DRAIN,   /* its data on the disk */
    STEP_FLUSH,   /* all of it durable */
    STEP_FENCE,   /* still our job? */
    STEP_PUBLISH, /* its name */
    STEP_SYNC,    /* the name durable */
    STEP_DONE,    /* done noted */
    STEP_COMMIT,  /* the row */
    STEP_RETIRE,  /* spare copies */
    STEP_FINISH,  /* to be finished */
    STEP_LATER,   /* large: its own group, after this one */
    STEP_ENDING,  /* the claim ends; Redis is being told */
    STEP_OWED,    /* Redis could not be told */
    STEP_ENDED
};

/* How a claim ends: kept until Redis knows. */
struct ending {
    enum { BY_RELEASE, BY_NO_ROOM, BY_FINISH, BY_FAILURE } by;
    int64_t delay_ms;
    enum queue_counts counts;
    enum job_status status;
    const char *drop_spare;
    char error[JOB_ERROR_BYTES];
};

struct job_task {
    struct group *g;
    struct lease *lease;
    struct content row;
    bool has_row;
    enum step step;
    int verdict;         /* of the last call about the claim */
    int fenced;          /* why the move must not be published: 0, -ESTALE, -ECANCELED, -EINTR */
    bool announced;      /* Redis knows that a copy may stand at the target */
    int64_t renewed_ms;  /* clock_boot_ms from before the claim or the last renewal */
    uint64_t told_bytes; /* of the present file, as the last tick said */

    struct move move;
    bool moving;                /* `move` is begun */
    bool uncommitted;           /* our copy has its name, and the row does not say so yet */
    bool taken;                 /* another program moved the file, and did not have it committed */
    char from[JOB_LEVEL_BYTES]; /* the level that it left behind, once committed; else "" */

    struct retire retire;
    size_t spare;     /* of the lease's, which is looked at */
    bool begun;       /* `retire` is */
    bool asks;        /* the database is to be asked about it, */
    bool asked_twice; /* and was, with the spare out of the way */
    bool behind;      /* it did not say yet what was committed */
    int confirmed;
    uint64_t n_read; /* levels were read so often when the authoritative one's was opened */
    enum move_rc retire_rc;
    bool fences; /* the spare was never committed: no commit that is under way must take effect, */
    bool fenced_off; /* nor does one: the row changed since the job was planned */
    struct file_id was, made;
    const char *retired[QUEUE_MAX_SPARES];
    size_t n_retired;
    bool spare_stays; /* one could not be retired yet */
    int64_t stays_ms; /* one is to stay for so long */

    struct ending ending;
};

struct group {
    struct child *w;
    struct levels *levels;
    void (*be_seen)(void *ctx);
    void *ctx;
    struct queue_batch batch;
    struct path_dirs moved_in, retired_in; /* directories that the jobs share */
    struct alias_set apart;                /* of retired_in */
    struct lease *leases;
    struct job_task tasks[GROUP_MAX];
    size_t n;
    size_t want;        /* how many to claim next */
    uint64_t files_max; /* descriptors */
    int64_t claimed_ms; /* clock_boot_ms of the claim */
    int64_t asked_ms;   /* of the last attempt to renew */
    struct {
        int64_t wait_ms, until_ms; /* wait_ms 0: the API takes commits, as far as we know */
        char why[JOB_ERROR_BYTES];
    } commits;
};

/* The first task at `step` behind `t` (NULL: of all), or NULL. */
static struct job_task *next_at(struct group *g, struct job_task *t, enum step step) {
    for (t = t ? t + 1 : g->tasks; t < g->tasks + g->n; t++)
        if (t->step == step)
            return t;
    return NULL;
}

static void say(const struct job_task *t, enum log_level level, const char *msg,
                const char *error) {
    if (error)
        log_event(level, msg, LOG_STR("worker_id", t->g->w->id), LOG_U64("cid", t->lease->cid),
                  LOG_STR("error", error));
    else
        log_event(level, msg, LOG_STR("worker_id", t->g->w->id), LOG_U64("cid", t->lease->cid));
}

/* The same of what may befall a thousand contents for one cause: `what` is it, without the name. */
static void say_once(const struct job_task *t, const char *what, const char *msg,
                     const char *error) {
    if (causes_is_new(&t->g->w->causes, what, error ? error : "", clock_mono_ms()))
        say(t, LOG_WARN, msg, error);
}

/* ---- ends of a claim ---- */

/* Files are closed first: whoever claims next must not find our locks on them. */
static void close_files(struct job_task *t) {
    if (t->begun)
        retire_release(&t->retire);
    if (t->moving)
        move_release(&t->move);
    t->begun = t->moving = false;
}

static void tell(struct job_task *t) {
    struct queue_batch *b = &t->g->batch;
    const struct ending *e = &t->ending;
    close_files(t);
    t->step = STEP_ENDING;
    switch (e->by) {
    case BY_RELEASE:
        queue_release(b, t->lease, e->delay_ms, e->counts, e->error, &t->verdict);
        break;
    case BY_NO_ROOM:
        queue_no_room(b, t->lease, e->delay_ms, e->error, &t->verdict);
        break;
    case BY_FINISH:
        queue_finish(b, t->lease, t->retired, t->n_retired, &t->verdict);
        break;
    case BY_FAILURE:
        queue_fail(b, t->lease, e->status, e->error, e->drop_spare, &t->verdict);
    }
}

static void keep_sentence(struct ending *e, const char *text) {
    snprintf(e->error, sizeof e->error, "%.*s", (int)sizeof e->error - 1, text);
}

static void release_as(struct job_task *t, int64_t delay_ms, enum queue_counts counts,
                       const char *why) {
    t->ending = (struct ending){.by = BY_RELEASE, .delay_ms = delay_ms, .counts = counts};
    keep_sentence(&t->ending, why);
    tell(t);
}

/* What waits for something counts how often. What may go on at once, with whoever claims it, does
 * not wait: it must not make a later wait longer. */
static void release(struct job_task *t, int64_t delay_ms, const char *why) {
    release_as(t, delay_ms, delay_ms ? QUEUE_COUNTS_WAIT : QUEUE_COUNTS_NOTHING, why);
}

static void end_as(struct job_task *t, enum job_status status, const char *error,
                   const char *drop_spare) {
    t->ending = (struct ending){.by = BY_FAILURE, .status = status, .drop_spare = drop_spare};
    keep_sentence(&t->ending, error);
    tell(t);
}

static void fail(struct job_task *t, enum job_status status, const char *msg, const char *error,
                 const char *drop_spare) {
    say(t, LOG_ERROR, msg, error);
    end_as(t, status, error, drop_spare);
}

/* The first `n_retired` of `retired` hold no copy any more. */
static void finish(struct job_task *t, size_t n_retired) {
    t->n_retired = n_retired;
    t->ending = (struct ending){.by = BY_FINISH};
    tell(t);
}

/* Whether Redis knows of the end. What it refuses for good (-EPROTO) must not keep us from other
 * jobs: that claim ends with its lease; unless it would refuse all of them, and then we tell again
 * when that is mended. */
static bool is_told(const struct job_task *t) {
    struct child *w = t->g->w;
    if (t->verdict == -EPROTO) {
        child_redis_rc(w, t->verdict);
        if (child_is_stopped(w))
            return false;
        say_once(t, "redis refuses the end of a claim", "redis refuses the end of a claim",
                 w->redis ? redis_words(w->redis) : "see its log");
    }
    return t->verdict == 0 || t->verdict == -ESTALE || t->verdict == -ECANCELED ||
           t->verdict == -EPROTO;
}

/* The claim was lost, to a worker that took us for dead or with all that Redis had, and our copy
 * stands. Whoever has the job now knows of it; but if nobody has one, it is up to us to say so. */
static void hand_over_copy(struct job_task *t) {
    struct child *w = t->g->w;
    struct content row;
    int rc = w->db ? child_db_rc(w, catalog_content(w->db, t->lease->cid, &row)) : -ENOTCONN;
    if (rc == 1 && strcmp(row.level, t->lease->target) != 0)
        rc = w->redis ? child_redis_rc(w, queue_spare(&w->queue, w->redis, t->lease->cid, row.level,
                                                      t->lease->target))
                      : -ENOTCONN;
    if (rc < 0)
        say(t, LOG_WARN, "an uncommitted copy may be left: see tierd check", log_errno_text(rc));
}

/* `first_ms`, doubled `times` times, bounded; and up to a quarter more, so that jobs which failed
 * together do not all come back together. */
static int64_t backoff(int64_t first_ms, uint64_t times) {
    int64_t delay_ms = first_ms << (times < 16 ? times : 16);
    if (delay_ms > BACKOFF_MAX_MS)
        delay_ms = BACKOFF_MAX_MS;
    return delay_ms + clock_wall_us() % (delay_ms / 4);
}

static void put_off_quietly(struct job_task *t, const char *why) {
    release(t, backoff(BUSY_DELAY_MS, t->lease->waits), why);
}

/* Runs the batch, and takes note of the claims that ended in it. Where Redis could not be told, we
 * owe it a word, so that nobody takes us for dead of that job. */
static void settle(struct group *g) {
    struct child *w = g->w;
    bool more;
    do {
        more = false;
        if (!queue_batch_empty(&g->batch)) {
            (void)child_open_redis(w);
            queue_batch_run(&g->batch, w->redis);
            child_redis_rc(w, 0);
        }
        for (struct job_task *t = NULL; (t = next_at(g, t, STEP_ENDING));) {
            if (t->verdict == -ECANCELED && t->ending.by == BY_FAILURE) {
                release(t, 0, "superseded");
                more = true;
            } else if (t->verdict == -EALREADY && t->ending.by == BY_FAILURE) {
                put_off_quietly(t, TAKEN_TEXT);
                more = true;
            } else {
                t->step = is_told(t) ? STEP_ENDED : STEP_OWED;
                if (t->verdict == -ESTALE && t->uncommitted)
                    hand_over_copy(t);
            }
        }
    } while (more);
}

static void retry(struct job_task *t, const char *error) {
    if (t->lease->attempts + 1 >= ATTEMPTS_MAX) {
        char text[JOB_ERROR_BYTES];
        snprintf(text, sizeof text, "given up after %d attempts: %.400s", ATTEMPTS_MAX, error);
        fail(t, JOB_DEAD, "the job is dead", text, NULL);
        return;
    }
    say_once(t, "will be tried again", "will be tried again", error);
    release_as(t, backoff(BACKOFF_FIRST_MS, t->lease->attempts), QUEUE_COUNTS_ATTEMPT, error);
}

/* Whether that is why levels cannot be used, which is said once for all jobs that wait. */
static bool is_said_once(int rc) {
    return rc == LEVELS_NESTED || rc == LEVELS_ALIAS || rc == LEVELS_HUNG;
}

/* What somebody else must mend first costs no attempt. */
static void put_off(struct job_task *t, const char *why) {
    char text[TEXT_BYTES];
    snprintf(text, sizeof text, "%s is put off", t->row.filename);
    say_once(t, "put off", text, why);
    put_off_quietly(t, why);
}

/* ---- leases ---- */

static void add_renewal(struct job_task *t, int64_t now, const char *spare) {
    struct progress *p = &t->lease->progress;
    int64_t since_ms = now - t->renewed_ms;
    if (since_ms > 0 && p->untold_bytes) {
        uint64_t rate = p->untold_bytes * 1000 / (uint64_t)since_ms;
        p->bytes_per_s = p->bytes_per_s ? (3 * p->bytes_per_s + rate) / 4 : rate;
    }
    queue_renew(&t->g->batch, t->lease, t->g->w->cfg->lease_ms, spare, &t->verdict);
}

static void note_renewal(struct job_task *t, int64_t now) {
    if (t->verdict < 0)
        return;
    t->renewed_ms = now;
    t->lease->progress.untold_bytes = 0;
}

/* Claims that last: those of the jobs at any step but the ends. */
static bool is_held(const struct job_task *t) {
    return t->step <= STEP_LATER;
}

/* Keeps all leases while one of the jobs takes long, looks for a stop; `fenced` says whether a move
 * may go on. Between members and between chunks: mostly it is not yet time for anything. */
static void keep_leases(struct group *g) {
    struct child *w = g->w;
    turn_now(w->o->turn);
    int64_t now = clock_boot_ms();
    int64_t pause_ms = w->cfg->lease_ms / 3 < TELL_MS ? w->cfg->lease_ms / 3 : TELL_MS;
    if (now - g->asked_ms < pause_ms)
        return;
    g->asked_ms = now;
    bool stop = child_stopping(w) && clock_mono_ms() - w->stop_ms > w->cfg->drain_timeout_ms / 2;
    for (struct job_task *t = g->tasks; stop && t < g->tasks + g->n; t++)
        t->fenced = t->fenced ? t->fenced : -EINTR;
    if (stop)
        return;
    for (struct job_task *t = g->tasks; t < g->tasks + g->n; t++)
        if (is_held(t))
            add_renewal(t, now, NULL);
    settle(g);
    for (struct job_task *t = g->tasks; t < g->tasks + g->n; t++) {
        if (!is_held(t))
            continue;
        note_renewal(t, now);
        if (t->verdict == -ESTALE || t->verdict == -ECANCELED ||
            (t->verdict < 0 && now - t->renewed_ms >= w->cfg->lease_ms))
            t->fenced = t->verdict;
    }
    g->be_seen(g->ctx);
}

/* Comparing comes after copying, and starts from 0 again: what was copied stays copied. */
static void note_progress(struct job_task *t, uint64_t done_bytes, uint64_t total_bytes) {
    struct progress *p = &t->lease->progress;
    p->total_bytes = total_bytes;
    if (done_bytes > p->done_bytes) {
        p->untold_bytes += done_bytes - p->done_bytes;
        p->done_bytes = done_bytes;
    }
}

/* Between chunks: waits as the bandwidth asks. */
static int tick(void *ctx, uint64_t done_bytes, uint64_t total_bytes) {
    struct job_task *t = ctx;
    struct child *w = t->g->w;
    note_progress(t, done_bytes, total_bytes);
    uint64_t bytes = done_bytes - (done_bytes < t->told_bytes ? 0 : t->told_bytes);
    int64_t wait_ms = rate_take(w->o->rate, bytes);
    t->told_bytes = done_bytes;
    keep_leases(t->g);
    while (wait_ms > 0 && !t->fenced) {
        int64_t ms = wait_ms < TICK_MS ? wait_ms : TICK_MS;
        child_nap(w, ms);
        wait_ms -= ms;
        keep_leases(t->g);
    }
    return t->fenced ? -1 : 0;
}

/* Between directories: what has its name, or is gone, is not given up any more. */
static void keep_all(void *ctx) {
    keep_leases(ctx);
}

/* While a spare is compared: it is to go whatever its content is wanted for by now. */
static int tick_freely(void *ctx, uint64_t done_bytes, uint64_t total_bytes) {
    struct job_task *t = ctx;
    (void)done_bytes;
    (void)total_bytes;
    keep_leases(t->g);
    return t->fenced && t->fenced != -ECANCELED ? -1 : 0;
}

/* Whether that broke the comparison off, which says nothing of the files then; the job is let go of
 * as a move that is abandoned. */
static bool was_broken_off(struct job_task *t) {
    bool broken_off = t->fenced && t->fenced != -ECANCELED;
    if (broken_off)
        release(t, 0, "abandoned");
    return broken_off;
}

/* ---- the rows ---- */

static void on_row(void *ctx, const struct content *row) {
    struct group *g = ctx;
    for (struct job_task *t = NULL; (t = next_at(g, t, STEP_LOOK));) {
        if (t->lease->cid == row->cid) {
            t->row = *row;
            t->has_row = true;
        }
    }
}

/* 0 or -errno. */
static int read_rows(struct group *g) {
    struct child *w = g->w;
    uint64_t cids[GROUP_MAX];
    size_t n = 0;
    int rc = levels_read(g->levels, false);
    if (rc < 0)
        return rc; /* of Redis or of the database: it was dealt with there */
    for (struct job_task *t = NULL; (t = next_at(g, t, STEP_LOOK));) {
        cids[n++] = t->lease->cid;
        t->has_row = false;
    }
    return w->db ? child_db_rc(w, catalog_contents(w->db, cids, n, on_row, g)) : -ENOTCONN;
}

/* What stands in the job's JSON, or as much of it as the index knows where that was damaged. */
static enum job_parse read_job(const struct lease *l, struct job *job) {
    enum job_parse why = job_read(str_view(l->json), l->cid, job);
    if (why != JOB_OK) {
        memset(job, 0, sizeof *job);
        job->cid = l->cid;
        snprintf(job->target, sizeof job->target, "%s", l->target);
    }
    return why;
}

/* The same of a move that was done, or committed, and is to be made once more: to where it was
 * made, unless another program wants something else by now. */
static void read_wanted(const struct lease *l, struct job *job) {
    enum job_parse why = read_job(l, job);
    if (why != JOB_OK || job->status != JOB_UPDATE)
        snprintf(job->target, sizeof job->target, "%s", l->target);
}

/* Has the claimed job begin anew, from `level`. `stale` as of queue_begin. 0 or -errno. */
static int plan(struct job_task *t, struct job *job, const char *level, const char *stale) {
    struct child *w = t->g->w;
    struct lease *l = t->lease;
    snprintf(job->db_level, sizeof job->db_level, "%s", level);
    snprintf(job->filename, sizeof job->filename, "%s", t->row.filename);
    int rc = w->redis ? child_redis_rc(w, queue_begin(&w->queue, w->redis, l, w->id, job,
                                                      t->row.seen, str_view(l->json), stale))
                      : -ENOTCONN;
    if (rc < 0)
        return rc;
    l->state = JOB_STATE_CLAIMED;
    snprintf(l->src, sizeof l->src, "%s", level);
    snprintf(l->target, sizeof l->target, "%s", job->target);
    return 0;
}

/* The content's file in the directory of a level, open; MOVE_OK with *fd and *st. */
static enum move_rc open_at(const struct job_task *t, int level, int *fd, struct stat *st) {
    return file_open_below(level, t->row.filename, fd, st);
}

static enum move_rc look_for_file(const struct job_task *t, int level) {
    struct stat st = {0};
    int fd = -1;
    enum move_rc rc = open_at(t, level, &fd, &st);
    path_close(&fd);
    return rc;
}

/* 1: the name is that of no other content; 0: it is; or -errno. */
static int is_free_name(struct job_task *t, const char *name) {
    struct child *w = t->g->w;
    struct content row;
    int rc = w->db ? child_db_rc(w, catalog_by_name(w->db, str_view(name), t->lease->cid, &row))
                   : -ENOTCONN;
    return rc < 0 ? rc : rc == 0;
}

/* ---- a content that is not where its row says ---- */

/*
 * Another program may have moved the file, and be about to have that committed; or it never will:
 * it died before it could say so, or what it said was overwritten. Or the database that we read
 * does not say yet where the content is. So one waits; where nobody has touched the file for as
 * long as the attempts take, it was waited for already, however often the content was posted since.
 */
static bool is_quiet(int64_t changed_s) {
    return clock_wall_us() / 1000000 - changed_s >= QUIET_S;
}

/* Whether it is an old copy that we know: one that we moved away from; or that we made and found
 * out of date, whatever its number is by now (recall). */
static bool is_old_copy(const struct lease *l, const char *level, const struct file_id *is) {
    struct file_id was, made;
    if (strcmp(l->from, level) == 0 && file_id_read(l->was, &was) && file_id_same(is, &was))
        return true;
    return strcmp(l->to, level) == 0 && file_id_read(l->made, &made) && is->bytes == made.bytes &&
           is->modified_s == made.modified_s && is->modified_ns == made.modified_ns;
}

/* Whether the file came to where it stands after the row was last written. One that stood there
 * before is nobody's move: rather, the level of the row is not mounted, and this is an old copy. */
static bool came_since(const struct job_task *t, const struct levels_found *f, size_t i) {
    return t->row.age_ms >= 0 &&
           clock_wall_us() / 1000 - f->at[i].changed_s * 1000 <= t->row.age_ms + ROUNDING_MS &&
           !is_old_copy(t->lease, f->at[i].level, &f->at[i].id);
}

/* As open_at, in the level of that name. */
static enum move_rc open_in(struct job_task *t, const char *level, int *dir, int *fd,
                            struct stat *st) {
    int own;
    const char *at;
    int opened = levels_both(t->g->levels, t->row.level, level, &own, dir, &at);
    return opened < 0 ? MOVE_IO : open_at(t, *dir, fd, st);
}

/* Whether the file in `level` holds what the open one does. MOVE_OK, MOVE_CONFLICT, or others. */
static enum move_rc is_same_in(struct job_task *t, const char *level, int fd,
                               const struct stat *st) {
    struct stat other_st = {0};
    int dir, other = -1;
    enum move_rc rc = open_in(t, level, &dir, &other, &other_st);
    int same = rc != MOVE_OK ? -1
               : other_st.st_size == st->st_size
                   ? file_identical(fd, other, (uint64_t)st->st_size, tick_freely, t)
                   : 0;
    path_close(&other);
    return rc != MOVE_OK ? rc : same == 1 ? MOVE_OK : same == 0 ? MOVE_CONFLICT : MOVE_IO;
}

/* Whether what stands in the level `best` of those found may be the content from now on: see
 * file_settle; all the others hold the same, and none stands where the row says. */
static enum move_rc settle_found(struct job_task *t, const struct levels_found *f, size_t best) {
    struct stat st = {0};
    int dir, own = -1, fd = -1;
    const char *at;
    enum move_rc rc = open_in(t, f->at[best].level, &dir, &fd, &st);
    for (size_t i = 0; rc == MOVE_OK && i < f->n; i++)
        if (i != best)
            rc = is_same_in(t, f->at[i].level, fd, &st);
    if (rc == MOVE_OK &&
        levels_both(t->g->levels, t->row.level, f->at[best].level, &own, &dir, &at) < 0)
        rc = MOVE_IO;
    if (rc == MOVE_OK)
        rc = file_settle(dir, t->row.filename, fd, &st);
    if (rc == MOVE_OK && look_for_file(t, own) != MOVE_MISSING)
        rc = MOVE_CHANGED;
    path_close(&fd);
    return rc;
}

/* The row says so by now: the others become spares, and the job begins anew from there. */
static void row_is_corrected(struct job_task *t, const struct levels_found *f, size_t best) {
    char text[TEXT_BYTES];
    struct child *w = t->g->w;
    const char *level = f->at[best].level;
    for (size_t i = 0; i < f->n; i++)
        if (i != best && w->redis)
            child_redis_rc(w,
                           queue_spare(&w->queue, w->redis, t->lease->cid, level, f->at[i].level));
    snprintf(text, sizeof text,
             "another program moved the file to %s and did not say so: the row is corrected",
             level);
    say(t, LOG_WARN, text, NULL);
    release_as(t, STALE_DELAY_MS, QUEUE_COUNTS_NOTHING, text);
}

/* What check --repair does (ops/check), for the content of a job; `why` is said where nothing can
 * be done. */
static void correct_row(struct job_task *t, const struct levels_found *f, size_t best,
                        const char *why) {
    char text[TEXT_BYTES];
    struct child *w = t->g->w;
    enum move_rc rc = settle_found(t, f, best);
    if (rc == MOVE_BUSY || rc == MOVE_CHANGED) {
        snprintf(text, sizeof text, "%s; %s", why, "somebody is at it");
        put_off(t, text);
        return;
    }
    if (rc != MOVE_OK && was_broken_off(t))
        return;
    int done = rc == MOVE_OK && f->unclear == 0 ? is_free_name(t, t->row.filename) : 0;
    if (done == 0) {
        retry(t, why);
        return;
    }
    if (done > 0)
        done =
            w->db ? child_db_rc(w, catalog_correct(w->db, &t->row, f->at[best].level)) : -ENOTCONN;
    if (done > 0) {
        row_is_corrected(t, f, best);
    } else if (done == -EPROTO) { /* it takes no UPDATE of us */
        child_away_text(w, text, sizeof text);
        retry(t, text);
    } else {
        snprintf(text, sizeof text, "the row changed while its file was moved");
        if (done < 0)
            child_away_text(w, text, sizeof text);
        release(t, done < 0 ? AWAY_DELAY_MS : 0, text);
    }
}

/* The file is not where its row says. True: it stands elsewhere, and the job is dealt with. */
static bool stands_elsewhere(struct job_task *t) {
    char why[JOB_ERROR_BYTES];
    struct levels_found f;
    size_t best = 0;
    levels_search(t->g->levels, t->row.level, t->row.filename, &f);
    if (f.n == 0)
        return false;
    for (size_t i = 0; i < f.n; i++)
        if (strcmp(f.at[i].level, t->lease->target) == 0)
            best = i;
    bool came = came_since(t, &f, best); /* or it was merely touched: see f.bare */
    snprintf(why, sizeof why, "the source is missing and %s stands in %s: %s",
             came ? "a file" : "an older file", f.at[best].level,
             !came    ? "is its own level mounted?"
             : f.bare ? "is its own level, which is empty, mounted?"
                      : "another program may have moved it");
    if (!came || f.bare ||
        (t->lease->attempts + 1 < ATTEMPTS_MAX && !is_quiet(f.at[best].changed_s)))
        retry(t, why);
    else
        correct_row(t, &f, best, why);
    return true;
}

/*
 * Another program says that it moved the file, and the row does not say so yet: mostly because that
 * program is about to have it committed. Where the files are as it says, we ask for that, in case
 * it cannot. Where they are not, 0: its source stands, so that a move of ours does no harm. 1: it
 * is dealt with.
 */
static int look_at_taken(struct job_task *t, const struct job *job) {
    char text[TEXT_BYTES];
    struct lease *l = t->lease;
    int src, dst;
    const char *at;
    int opened = levels_both(t->g->levels, job->db_level, job->target, &src, &dst, &at);
    if (opened < 0) {
        levels_text(t->g->levels, text, sizeof text, at, opened);
        (is_said_once(opened) ? put_off_quietly : put_off)(t, text);
        return 1;
    }
    if (look_for_file(t, src) != MOVE_MISSING)
        return 0;
    if (look_for_file(t, dst) != MOVE_OK) {
        snprintf(text, sizeof text,
                 "another program says that it moved the file from %s to %s, and it stands in "
                 "neither",
                 job->db_level, job->target);
        if (!stands_elsewhere(t))
            retry(t, text);
        return 1;
    }
    snprintf(l->src, sizeof l->src, "%s", job->db_level);
    snprintf(l->target, sizeof l->target, "%s", job->target);
    t->taken = true;
    t->step = STEP_COMMIT;
    return 1;
}

/* Brings the claimed job in line with its row and with what stands in its JSON, which another
 * program may have written. 0: go on; 1: it is dealt with; -errno. */
static int align(struct job_task *t) {
    struct lease *l = t->lease;
    struct job job;
    enum job_parse why = read_job(l, &job);
    if (why == JOB_OK && job.status == JOB_DONE && strcmp(job.target, t->row.level) != 0 &&
        strcmp(job.db_level, t->row.level) == 0 && strcmp(job.filename, t->row.filename) == 0 &&
        look_at_taken(t, &job) != 0)
        return 1;
    if (l->state == JOB_STATE_NONE &&
        (why != JOB_OK || job.status == JOB_DEAD || job.status == JOB_CONFLICT)) {
        finish(t, 0); /* not a job after all */
        return 1;
    }
    bool same = why == JOB_OK && l->state != JOB_STATE_NONE && strcmp(job.target, l->target) == 0 &&
                strcmp(l->src, t->row.level) == 0 && strcmp(job.filename, t->row.filename) == 0 &&
                strcmp(job.db_level, l->src) == 0;
    snprintf(l->seen, sizeof l->seen, "%s", t->row.seen); /* what the move is made on */
    if (same)
        return 0;
    bool unseen = l->state == JOB_STATE_NONE || strcmp(l->target, job.target) != 0;
    int rc = plan(t, &job, t->row.level, NULL);
    if (rc < 0)
        return rc;
    if (!unseen || strcmp(l->src, l->target) == 0)
        return 0;
    release(t, 0, "its gates were not asked"); /* nobody knew where it was to go */
    return 1;
}

static void look_at_unstarted(struct job_task *t) {
    int rc = align(t);
    if (rc == -EMSGSIZE)
        fail(t, JOB_DEAD, "the job is dead", "the names in the catalogue are too long for a job",
             NULL);
    else if (rc < 0)
        release(t, rc == -ESTALE ? backoff(STALE_DELAY_MS, t->lease->waits) : AWAY_DELAY_MS,
                "it changed while it was read");
    if (rc == 0) /* it may be there already */
        t->step = strcmp(t->lease->src, t->lease->target) == 0 ? STEP_RETIRE : STEP_CLEAR;
}

/* Whether `row` is older than the commit that ended the job: what we read is a replica, or another
 * node of a cluster, that lags behind the one that the API writes to. A row that somebody set back
 * is newer. */
static bool is_behind(const struct job_task *t, const struct content *row) {
    const struct lease *l = t->lease;
    return l->target[0] && strcmp(row->level, l->target) != 0 && strcmp(row->seen, l->seen) <= 0;
}

static void look_at(struct job_task *t) {
    enum job_state state = t->lease->state;
    t->fenced_off = strcmp(t->lease->seen, t->row.seen) != 0;
    if (t->lease->crashes >= CRASHES_MAX && state == JOB_STATE_CLAIMED) {
        fail(t, JOB_DEAD, "the job is dead", "five workers died of it", NULL);
        return;
    }
    if (!t->has_row) {
        if (state != JOB_STATE_NONE)
            fail(t, JOB_DEAD, "the job is dead", "the content is not in the catalogue", NULL);
        else
            finish(t, 0);
        return;
    }
    switch (job_state_phase(state)) {
    case JOB_PHASE_COMMIT:
        t->step = STEP_COMMIT;
        break;
    case JOB_PHASE_RETIRE:
        if (is_behind(t, &t->row) && t->lease->waits < BEHIND_MAX) {
            put_off(t, BEHIND_TEXT); /* nothing of what it says may be acted on */
            break;
        }
        /* fall through */
    case JOB_PHASE_ENDED:
        t->step = STEP_RETIRE;
        break;
    case JOB_PHASE_MOVE:
        look_at_unstarted(t);
    }
}

/* ---- retirement ---- */

/* How long a copy is to stay yet for readers with a cache (--retire-delay). */
static int64_t stays_ms(const struct job_task *t, const struct spare *s) {
    int64_t delay_ms = t->g->w->cfg->retire_delay_ms;
    if (s->since_ms == 0 || delay_ms == 0)
        return 0;
    int64_t now_ms = (int64_t)t->lease->claimed_ms + clock_boot_ms() - t->g->claimed_ms;
    int64_t left_ms = (int64_t)s->since_ms + delay_ms - now_ms;
    return left_ms < 0 ? 0 : left_ms;
}

/* Whether it was published and never committed, for what it was made of changed since. */
static bool is_stale(const struct job_task *t, const struct spare *s) {
    return strcmp(s->level, t->lease->to) == 0;
}

/* Goes on to the next spare that is to be retired now, from the present one on; false behind the
 * last. The one at the target of a move that is yet to be made may stay: it may be adopted. */
static bool pick_spare(struct job_task *t) {
    bool clears = t->step == STEP_CLEAR;
    for (; t->spare < t->lease->n_spares; t->spare++) {
        const struct spare *s = &t->lease->spares[t->spare];
        if (strcmp(s->level, t->row.level) == 0) { /* it is the authoritative one by now */
            t->retired[t->n_retired++] = s->level;
            continue;
        }
        int64_t left_ms = stays_ms(t, s);
        if (left_ms > t->stays_ms)
            t->stays_ms = left_ms;
        if (left_ms == 0 && (!clears || strcmp(s->level, t->lease->target) != 0 || is_stale(t, s)))
            return true;
    }
    return false;
}

/* Whether `path` is the one that the authoritative level's directory was opened by. */
static bool is_opened_path(const struct job_task *t, struct str_view path) {
    const struct levels *levels = t->g->levels;
    const char *read = levels_path(levels, t->row.level);
    return (!t->begun || t->n_read == levels->n_read) && read && path.ptr && str_is(path, read);
}

static void on_confirm(void *ctx, const struct content *now, struct str_view path) {
    struct group *g = ctx;
    for (struct job_task *t = g->tasks; t < g->tasks + g->n; t++) {
        if (!t->asks || t->lease->cid != now->cid)
            continue;
        t->confirmed =
            strcmp(now->level, t->row.level) == 0 && strcmp(now->filename, t->row.filename) == 0;
        t->behind =
            t->confirmed == 0 && strcmp(t->row.level, t->lease->target) == 0 && is_behind(t, now);
        if (t->behind)
            t->confirmed = -EAGAIN;
        if (t->confirmed == 1 && !is_opened_path(t, path)) {
            levels_forget(g->levels);
            t->confirmed = -EAGAIN; /* what we look at is not what the database speaks of */
        }
    }
}

/* Changes the row's time alone, on the condition that it is as we read it: no commit that was made
 * on it, and is under way yet, takes effect any more. As `confirmed`. */
static int fence_row(struct job_task *t) {
    struct child *w = t->g->w;
    int rc = w->db ? child_db_rc(w, catalog_correct(w->db, &t->row, t->row.level)) : -ENOTCONN;
    if (rc == 1)
        rc = w->db ? child_db_rc(w, catalog_content(w->db, t->lease->cid, &t->row)) : -ENOTCONN;
    if (rc == 1)
        snprintf(t->lease->seen, sizeof t->lease->seen, "%s", t->row.seen);
    return rc;
}

/* Asks the database whether the contents that ask are still where we believe: `confirmed` is 1, 0,
 * or -errno when nobody can say. */
static void confirm(struct group *g) {
    struct child *w = g->w;
    uint64_t cids[GROUP_MAX];
    size_t n = 0;
    for (struct job_task *t = g->tasks; t < g->tasks + g->n; t++) {
        t->confirmed = 0;
        if (t->asks)
            cids[n++] = t->lease->cid;
    }
    int rc = n == 0  ? 0
             : w->db ? child_db_rc(w, catalog_places(w->db, cids, n, on_confirm, g))
                     : -ENOTCONN;
    for (struct job_task *t = g->tasks; rc < 0 && t < g->tasks + g->n; t++)
        t->confirmed = rc;
    for (struct job_task *t = g->tasks; t < g->tasks + g->n; t++)
        if (t->asks && t->confirmed == 1 && t->begun && t->fences)
            t->confirmed = fence_row(t);
}

static struct move *move_that_left(struct job_task *t) {
    bool left = t->moving && strcmp(t->lease->spares[t->spare].level, t->from) == 0;
    return left ? &t->move : NULL;
}

/* True: the spare is dealt with: none is left there, or what is there is not ours to take. */
static bool is_dealt_with(enum move_rc rc) {
    return rc == MOVE_OK || rc == MOVE_CHANGED || rc == MOVE_BAD_PATH || rc == MOVE_NOT_REGULAR ||
           rc == MOVE_CONFLICT || rc == MOVE_ALIAS;
}

/* The old copy was written to, or replaced, by somebody who did not know yet that the content had
 * moved on; what we made of it is out of date. Or another program said that it moved the file, and
 * did not. The old place becomes the content's own again, and the job begins anew: the plan comes
 * first, so that whoever ends this claim knows of both copies.
 */
static void turn_back(struct job_task *t, const char *level, const char *why) {
    struct child *w = t->g->w;
    struct job job;
    struct content row;
    read_wanted(t->lease, &job);
    int rc = w->db ? child_db_rc(w, catalog_content(w->db, t->lease->cid, &row)) : -ENOTCONN;
    if (rc == 1 && strcmp(row.level, t->row.level) == 0 &&
        strcmp(row.filename, t->row.filename) == 0) {
        t->row = row;
        rc = plan(t, &job, level, row.level);
        if (rc == 0)
            rc = w->db ? child_db_rc(w, catalog_correct(w->db, &row, level)) : -ENOTCONN;
    }
    if (rc < 0)
        release(t, rc == -ESTALE ? backoff(STALE_DELAY_MS, t->lease->waits) : AWAY_DELAY_MS,
                "the content is at its old place, and the row could not be set back yet");
    else
        put_off(t, why);
}

/* Why a copy is left. */
static const char *left_text(enum move_rc rc, bool alone) {
    if (rc != MOVE_CHANGED)
        return move_rc_text(rc);
    return alone ? "nothing stands where the content's row says"
                 : "it is not the same as what its row names";
}

/* The row changed, or the database takes no change of it now: until it does, a commit that is under
 * way might, and the copy stays. */
static void row_not_fenced(struct job_task *t) {
    char why[TEXT_BYTES] = "the row changed meanwhile"; /* or its level's path, see on_confirm */
    const struct child *w = t->g->w;
    if (t->confirmed < 0 && (!w->redis || !w->db || w->db_error[0]))
        child_away_text(w, why, sizeof why);
    release(t, backoff(STALE_DELAY_MS, t->lease->waits), why);
}

/* The end of one spare; on to the next. */
static void spare_ended(struct job_task *t) {
    char text[TEXT_BYTES];
    const char *level = t->lease->spares[t->spare].level;
    int error = t->retire.error;
    bool kept = t->retire.kept;
    bool again = t->retire_rc == MOVE_OK && t->retire.again;
    retire_release(&t->retire);
    t->begun = false;
    if (again)
        return; /* it was a private name that was judged; what has the content's own is next */
    if (t->retire_rc == MOVE_NEWER && !kept) {
        turn_back(t, level, move_rc_text(MOVE_NEWER));
        return;
    }
    if (t->retire_rc == MOVE_CHANGED && t->retire.alone && !kept && t->lease->taken[0]) {
        turn_back(t, level,
                  "another program said that it moved the file, and it stands where it was");
        return;
    }
    if (t->fences && t->asked_twice && t->confirmed != 1) {
        row_not_fenced(t);
        return;
    }
    if (t->retire_rc != MOVE_OK) {
        const char *why = t->behind && t->retire_rc == MOVE_BUSY
                              ? BEHIND_TEXT
                              : left_text(t->retire_rc, t->retire.alone);
        snprintf(text, sizeof text, "%s in %s is left%s%s: %s", t->row.filename, level,
                 kept ? " as " : "", kept ? t->retire.old : "", why);
        say_once(t, why, text, error ? log_errno_text(error) : NULL);
    }
    if (is_dealt_with(t->retire_rc))
        t->retired[t->n_retired++] = level;
    else
        t->spare_stays = true;
    t->spare++;
}

/* A level that cannot be opened: the spare's own may be gone for good, which ends it. */
static void spare_out_of_reach(struct job_task *t, int rc) {
    char text[TEXT_BYTES];
    const char *level = t->lease->spares[t->spare].level;
    levels_text(t->g->levels, text, sizeof text, level, rc);
    say(t, rc == LEVELS_NESTED || rc == LEVELS_HUNG ? LOG_DEBUG : LOG_WARN, text, NULL);
    if (rc == -ENOKEY || rc == LEVELS_ALIAS)
        t->retired[t->n_retired++] = level;
    else
        t->spare_stays = true;
    t->spare++;
}

/* What is remembered of the move that left the spare, or made it. A file system in user space may
 * number a file anew at any time: where nothing will adopt a copy, it need not be the one that we
 * remember, for what it holds is compared. */
static void recall(struct job_task *t) {
    const struct lease *l = t->lease;
    const struct spare *s = &l->spares[t->spare];
    bool known = file_id_read(l->was, &t->was) && file_id_read(l->made, &t->made);
    t->fences = known && is_stale(t, s);
    if (t->fences)
        t->retire.stale = &t->made;
    t->retire.only_stale = t->fences && t->step == STEP_CLEAR && strcmp(s->level, l->target) == 0;
    if (!known || strcmp(s->level, l->from) != 0)
        return;
    t->retire.was = &t->was;
    t->retire.made = &t->made;
}

static void begin_spare(struct job_task *t) {
    char text[TEXT_BYTES];
    struct levels *levels = t->g->levels;
    int auth = -1, dir = -1;
    const char *at;
    keep_leases(t->g);
    int rc = levels_both(levels, t->row.level, t->lease->spares[t->spare].level, &auth, &dir, &at);
    if (rc < 0 && at == t->row.level) {
        levels_text(levels, text, sizeof text, t->row.level, rc);
        (is_said_once(rc) ? put_off_quietly : put_off)(t, text);
    } else if (rc < 0) {
        spare_out_of_reach(t, rc);
    } else {
        t->retire = (struct retire){.cid = t->lease->cid,
                                    .name = t->row.filename,
                                    .spare_level = dir,
                                    .auth_level = auth,
                                    .move = move_that_left(t),
                                    .apart = &t->g->apart,
                                    .sweep = t->lease->crashes > 0,
                                    .tick = tick_freely,
                                    .ctx = t,
                                    .dirs = &t->g->retired_in};
        recall(t);
        t->n_read = levels->n_read;
        t->retire_rc = retire_begin(&t->retire);
        t->begun = true;
    }
}

/* Makes the removals durable, a directory once for all. */
static void sync_removals(struct group *g) {
    int dirs[GROUP_MAX] = {0}, errors[GROUP_MAX];
    for (size_t i = 0; i < g->n; i++) {
        const struct job_task *t = &g->tasks[i];
        dirs[i] = t->begun && t->retire.removed ? t->retire.spare_dir : -1;
    }
    file_sync_dirs(dirs, g->n, errors, keep_all, g);
    for (size_t i = 0; i < g->n; i++) {
        if (errors[i]) {
            g->tasks[i].retire_rc = MOVE_IO;
            g->tasks[i].retire.error = errors[i];
        }
    }
}

/* The folders that were emptied so, each once. */
static void prune(struct group *g) {
    for (size_t i = 0, k; i < g->n; i++) {
        const struct job_task *t = &g->tasks[i];
        if (!t->begun || t->retire_rc != MOVE_OK || t->retire.spare_dir < 0)
            continue;
        for (k = 0; k < i; k++)
            if (g->tasks[k].begun && g->tasks[k].retire_rc == MOVE_OK &&
                g->tasks[k].retire.spare_dir == t->retire.spare_dir)
                break;
        if (k == i)
            path_prune(t->retire.spare_dir, t->row.filename);
    }
}

/* Whether the database is asked once more: before something is taken away, and where a copy that a
 * commit may be under way for has gone already. */
static bool must_ask(const struct job_task *t) {
    return t->begun && t->retire_rc == MOVE_OK &&
           (t->retire.own >= 0 || (t->fences && !t->fenced_off));
}

/* One spare of each job at `step`, all at once. False when no job has one left. */
static bool retire_round(struct group *g, enum step step) {
    bool any = false;
    for (struct job_task *t = NULL; (t = next_at(g, t, step));) {
        t->fences = t->asked_twice = t->behind = false;
        t->asks = pick_spare(t) && !move_that_left(t); /* our own move was committed just now */
        any |= t->spare < t->lease->n_spares;
    }
    if (!any)
        return false;
    confirm(g);
    for (struct job_task *t = NULL; (t = next_at(g, t, step));) {
        if (t->spare == t->lease->n_spares)
            continue;
        if (!t->asks || t->confirmed == 1) {
            begin_spare(t);
        } else {
            t->retire = (struct retire){.spare_dir = -1, .auth_dir = -1, .box = -1, .own = -1};
            t->retire_rc = t->confirmed == 0 ? MOVE_CHANGED : MOVE_BUSY;
            t->begun = true;
        }
        t->asks = false;
    }
    for (struct job_task *t = NULL; (t = next_at(g, t, step));)
        t->asks = t->asked_twice = must_ask(t);
    confirm(g);
    for (struct job_task *t = NULL; (t = next_at(g, t, step));) {
        keep_leases(g);
        if (t->asks && t->retire.own >= 0)
            t->retire_rc = retire_end(&t->retire, t->confirmed);
        t->asks = false;
    }
    sync_removals(g);
    if (!g->w->cfg->keep_empty_dirs)
        prune(g);
    for (struct job_task *t = NULL; (t = next_at(g, t, step));)
        if (t->begun)
            spare_ended(t);
    path_dirs_close(&g->retired_in);
    g->apart.n = 0;
    return true;
}

/*
 * Retires the spares of all jobs at `step`, but the one at the target of a move that is yet to be
 * made: those that are to stay for a while make a job wait, unless it has that move before it.
 */
static void retire_all(struct group *g, enum step step, enum step next) {
    levels_close(g->levels);
    for (struct job_task *t = NULL; (t = next_at(g, t, step));) {
        t->spare = t->n_retired = 0;
        t->stays_ms = 0;
        t->spare_stays = false;
    }
    while (retire_round(g, step))
        ;
    for (struct job_task *t = NULL; (t = next_at(g, t, step));) {
        if (t->spare_stays)
            release(t, backoff(BUSY_DELAY_MS, t->lease->waits),
                    t->behind ? BEHIND_TEXT : "a spare copy could not be retired yet");
        else if (t->stays_ms > 0 && step == STEP_RETIRE)
            release_as(t, t->stays_ms + 1, QUEUE_COUNTS_NOTHING, "the old copy stays for a while");
        else
            t->step = next;
    }
}

static void add_spare(struct lease *l, const char *level, uint64_t since_ms) {
    size_t i = 0;
    while (i < l->n_spares && strcmp(l->spares[i].level, level) != 0)
        i++;
    if (i == QUEUE_MAX_SPARES)
        return;
    if (i == l->n_spares)
        snprintf(l->spares[l->n_spares++].level, JOB_LEVEL_BYTES, "%s", level);
    l->spares[i].since_ms = since_ms;
}

/* ---- strays ---- */

/*
 * A copy of ours that was published and never committed, and that no spare's name finds: the row
 * was given another file name meanwhile, or the level another path. It goes by what it is, never by
 * its name alone, and only if no other content has that name by now.
 */
static bool has_stray(const struct job_task *t) {
    const struct lease *l = t->lease;
    if (!l->to[0] || !l->made[0] || !l->name[0] || !l->path[0] || !t->has_row)
        return false;
    const char *path = levels_path(t->g->levels, l->to);
    return strcmp(l->name, t->row.filename) != 0 || !path || strcmp(l->path, path) != 0;
}

/* Judges it, asks, and takes it away: as a round of retirement does, for this one alone. */
static enum move_rc retire_stray(struct job_task *t, int dir, int auth) {
    struct group *g = t->g;
    int error = 0;
    t->fences = file_id_read(t->lease->made, &t->made);
    t->n_read = g->levels->n_read;
    t->retire = (struct retire){.cid = t->lease->cid,
                                .name = t->row.filename,
                                .spare_name = t->lease->name,
                                .spare_level = dir,
                                .auth_level = auth,
                                .stale = &t->made,
                                .only_stale = true,
                                .sweep = t->lease->crashes > 0,
                                .tick = tick_freely,
                                .ctx = t,
                                .dirs = &g->retired_in};
    enum move_rc rc = t->fences ? retire_begin(&t->retire) : MOVE_CHANGED;
    t->begun = true;
    t->asks = rc == MOVE_OK && t->retire.own >= 0;
    if (t->asks) {
        confirm(g);
        rc = retire_end(&t->retire, t->confirmed);
        if (t->confirmed == 0)
            rc = MOVE_BUSY; /* put back: the row changed, and is to be read again */
        if (t->retire.removed)
            file_sync_dirs(&t->retire.spare_dir, 1, &error, keep_all, g);
    }
    t->asks = t->begun = t->fences = false;
    retire_release(&t->retire);
    path_dirs_close(&g->retired_in);
    return error ? MOVE_IO : rc;
}

/* True: there is none any more, or nobody can reach it. False: the claim ends, it stays for now. */
static bool drop_stray(struct job_task *t) {
    char text[TEXT_BYTES];
    struct lease *l = t->lease;
    if (l->state == JOB_STATE_DONE || !has_stray(t))
        return true;
    int auth = -1;
    const char *at;
    if (levels_both(t->g->levels, t->row.level, t->row.level, &auth, &auth, &at) < 0)
        auth = -1;
    int dir = auth < 0 ? -1 : levels_open_path(t->g->levels, l->path);
    int is_free = dir < 0 ? 0 : is_free_name(t, l->name);
    enum move_rc rc = is_free < 0 || auth < 0 ? MOVE_BUSY : MOVE_CHANGED;
    if (is_free == 1)
        rc = retire_stray(t, dir, auth);
    else if (dir < 0 && auth >= 0)
        rc = dir == -ENOENT || dir == -EXDEV || dir == -EINVAL ? MOVE_CHANGED : MOVE_BUSY;
    path_close(&dir);
    if (rc != MOVE_OK) {
        snprintf(text, sizeof text, "%s is left where it was put for %s: %s", l->name, l->to,
                 left_text(rc, false));
        say(t, LOG_WARN, text, NULL);
    }
    if (!is_dealt_with(rc)) {
        release(t, backoff(STALE_DELAY_MS, l->waits),
                "a copy of another name, or at another path, could not be retired yet");
        return false;
    }
    l->to[0] = '\0'; /* what stands at the level's present path is another one */
    return true;
}

static void look(struct group *g) {
    char why[TEXT_BYTES];
    int rc = read_rows(g);
    child_away_text(g->w, why, sizeof why);
    for (struct job_task *t = NULL; (t = next_at(g, t, STEP_LOOK));) {
        if (rc < 0)
            release(t, AWAY_DELAY_MS, why);
        else if (drop_stray(t))
            look_at(t);
    }
}

/* ---- the moves ---- */

/* Too many files are open, here or on the whole machine: none of it is the job's fault. */
static void out_of_files(struct job_task *t, const char *why) {
    t->g->want = 1;
    put_off(t, why);
}

/* What an errno of metadata means: a file system has several for an attribute that is larger than
 * it can hold. */
static const char *unkept_text(int error) {
    return error == ENOSPC || error == E2BIG || error == ERANGE
               ? "it is too large for the target's file system"
               : log_errno_text(error);
}

static void room_text(const struct move *m, char *out, size_t cap) {
    char need[STR_SIZE_BYTES], has[STR_SIZE_BYTES];
    str_size(m->need_bytes, true, need);
    if (m->error == EDQUOT)
        snprintf(out, cap, "needs %s, a quota does not allow it (%s)", need, m->step);
    else if (m->no_inodes)
        snprintf(out, cap, "no more files can be made there");
    else if (m->free_bytes >= m->need_bytes)
        snprintf(out, cap, "%s: %s", m->step, log_errno_text(m->error));
    else
        snprintf(out, cap, "needs %s, has %s", need, str_size(m->free_bytes, false, has));
}

/* A job whose file does not fit waits by itself, others may fit; when nothing does, so does the
 * level: they would only find the same. */
static void no_room(struct job_task *t) {
    char room[META_WHAT_BYTES + 64];
    struct child *w = t->g->w;
    int64_t delay_ms = backoff(NOSPACE_DELAY_MS, t->lease->waits);
    room_text(&t->move, room, sizeof room);
    if (t->move.full && w->redis)
        child_redis_rc(w, queue_full(&w->queue, w->redis, t->lease->target, delay_ms, room));
    t->ending = (struct ending){.by = t->move.full ? BY_RELEASE : BY_NO_ROOM,
                                .delay_ms = t->move.full ? 0 : delay_ms};
    snprintf(t->ending.error, sizeof t->ending.error, "no space left in %s: %.*s", t->lease->target,
             (int)(JOB_ERROR_BYTES - JOB_LEVEL_BYTES - 20), room);
    say(t, LOG_WARN, t->ending.error, NULL);
    tell(t);
}

/* Whether somebody renamed the content, or moved it by hand, since its row was read; then, or when
 * nobody can say, the job is let go of. */
static bool row_changed(struct job_task *t) {
    struct child *w = t->g->w;
    struct content row;
    char why[TEXT_BYTES] = "the row changed while its file was moved";
    int rc = w->db ? child_db_rc(w, catalog_content(w->db, t->lease->cid, &row)) : -ENOTCONN;
    if (rc == 1 && strcmp(row.level, t->row.level) == 0 &&
        strcmp(row.filename, t->row.filename) == 0)
        return false;
    if (rc < 0)
        child_away_text(w, why, sizeof why);
    release(t, rc < 0 ? AWAY_DELAY_MS : 0, why);
    return true;
}

/* Nothing of ours takes a source away before its commit. */
static void source_missing(struct job_task *t) {
    char text[TEXT_BYTES];
    if (stands_elsewhere(t))
        return;
    snprintf(text, sizeof text, "%s not exists", t->row.filename);
    fail(t, JOB_DEAD, text, "the source file does not exist", NULL);
}

static void move_ended_badly(struct job_task *t, enum move_rc rc) {
    char text[TEXT_BYTES], why[JOB_ERROR_BYTES];
    const char *drop = t->announced && rc == MOVE_CONFLICT ? t->lease->target : NULL;
    const char *error = t->move.error ? log_errno_text(t->move.error) : move_rc_text(rc);
    switch (rc) {
    case MOVE_MISSING:
        if (!row_changed(t))
            source_missing(t);
        break;
    case MOVE_CONFLICT:
        snprintf(text, sizeof text, "%s already exists in %s", t->row.filename, t->lease->target);
        fail(t, JOB_CONFLICT, text, "a different file has the name at the target", drop);
        break;
    case MOVE_BAD_PATH:
        snprintf(text, sizeof text, "%s cannot be moved", t->row.filename);
        snprintf(why, sizeof why, "%s: %s", t->move.step, move_rc_text(rc));
        fail(t, JOB_DEAD, text, why, drop);
        break;
    case MOVE_NOT_REGULAR:
    case MOVE_UNSUPPORTED:
    case MOVE_UNDURABLE:
    case MOVE_ALIAS:
        snprintf(text, sizeof text, "%s cannot be moved", t->row.filename);
        fail(t, JOB_DEAD, text, move_rc_text(rc), drop);
        break;
    case MOVE_UNKEPT:
        snprintf(text, sizeof text, "%s cannot be moved", t->row.filename);
        snprintf(why, sizeof why, "%s: %s", t->move.step, unkept_text(t->move.error));
        fail(t, JOB_DEAD, text, why, t->announced && t->move.adopted ? t->lease->target : NULL);
        break;
    case MOVE_NOSPACE:
        no_room(t);
        break;
    case MOVE_GONE: /* emptied by another move, on another host: once more from the start */
        release(t, STALE_DELAY_MS, move_rc_text(rc));
        break;
    case MOVE_BUSY:
    case MOVE_HARDLINKS:
    case MOVE_CHANGED:
    case MOVE_FIXED:
        put_off(t, move_rc_text(rc));
        break;
    case MOVE_ABANDONED:
        say(t, LOG_INFO,
            t->fenced == -EINTR ? "abandoned, stopping" : "abandoned, no longer wanted", NULL);
        release(t, 0, "abandoned");
        break;
    default:
        snprintf(text, sizeof text, "%s: %s", t->move.step ? t->move.step : "move", error);
        if (t->move.error == EMFILE || t->move.error == ENFILE)
            out_of_files(t, text);
        else
            retry(t, text);
    }
}

/* On to the next step, or the move has ended. */
static void advance(struct job_task *t, enum move_rc rc, enum step next) {
    if (rc == MOVE_OK)
        t->step = next;
    else
        move_ended_badly(t, rc);
}

static void begin_move(struct job_task *t, int src, int dst) {
    char text[TEXT_BYTES];
    enum move_rc rc =
        move_begin(&t->move, t->lease->cid, src, dst, t->row.filename, &t->g->moved_in);
    t->moving = true;
    t->announced = false;
    t->from[0] = '\0';
    t->told_bytes = 0;
    t->move.verify = t->g->w->cfg->verify;
    t->move.chunk_bytes = rate_chunk_bytes(t->g->w->o->rate, CHUNK_LEAST_BYTES, CHUNK_MOST_BYTES);
    if (rc == MOVE_OK && t->lease->crashes > 0)
        move_sweep(&t->move);
    if (rc == MOVE_OK) {
        snprintf(text, sizeof text, "%s moves %s to %s", t->row.filename, t->lease->src,
                 t->lease->target);
        say(t, LOG_INFO, text, NULL);
    }
    advance(t, rc, STEP_STAGE);
}

static void open_files(struct job_task *t) {
    char text[TEXT_BYTES];
    struct levels *levels = t->g->levels;
    keep_leases(t->g);
    enum name_check name = name_check(t->row.filename);
    if (name != NAME_OK) {
        fail(t, JOB_DEAD, "the filename is refused", name_check_text(name), NULL);
        return;
    }
    int src = -1, dst = -1;
    const char *at;
    int rc = levels_both(levels, t->lease->src, t->lease->target, &src, &dst, &at);
    const char *path = levels_path(levels, t->lease->target);
    if (rc == 0) {
        snprintf(t->lease->path, sizeof t->lease->path, "%s", path ? path : "");
        begin_move(t, src, dst);
        return;
    }
    levels_text(levels, text, sizeof text, at, rc);
    if (rc == LEVELS_ALIAS)
        end_as(t, JOB_DEAD, text, NULL);
    else if (rc == LEVELS_NESTED || rc == LEVELS_HUNG)
        put_off_quietly(t, text);
    else if (rc == -ENOKEY || rc == -EXDEV || rc == -EINVAL)
        fail(t, JOB_DEAD, "the job is dead", text, NULL);
    else
        put_off(t, text); /* a mount that is missing, or not the right one */
}

/* Lets go of what would keep the others waiting: the first file that is too large for the group
 * gets one of its own after it, further ones go to whoever claims them. How many are to be claimed
 * next follows. */
static void part_with_the_large(struct group *g) {
    struct job_task *large = NULL;
    uint64_t bytes = 0;
    size_t fit = 0;
    for (struct job_task *t = NULL; (t = next_at(g, t, STEP_STAGE));) {
        uint64_t size = t->move.same_device ? 0 : (uint64_t)t->move.src.st_size;
        if (bytes + size <= GROUP_BYTES) {
            bytes += size;
            fit++;
        } else if (!large) {
            large = t;
        } else {
            release(t, 0, "left to another worker");
        }
    }
    if (large && fit > 0) {
        close_files(large);
        large->step = STEP_LATER;
    }
    if (large)
        g->want = fit > 0 ? fit : 1;
    else if (g->n == g->want)
        g->want = 2 * g->want < GROUP_MAX ? 2 * g->want : GROUP_MAX;
}

/* Up to durable copies. Each is on its way to the disk while the next is made; what is waited for
 * first brings most of the others along. */
static void stage_all(struct group *g) {
    for (struct job_task *t = NULL; (t = next_at(g, t, STEP_STAGE));) {
        keep_leases(g);
        advance(t, t->fenced ? MOVE_ABANDONED : move_stage(&t->move, tick, t), STEP_DRAIN);
    }
    for (struct job_task *t = NULL; (t = next_at(g, t, STEP_DRAIN));)
        advance(t, move_drain(&t->move, tick, t), STEP_FLUSH);
    for (struct job_task *t = NULL; (t = next_at(g, t, STEP_FLUSH));) {
        keep_leases(g);
        advance(t, t->fenced ? MOVE_ABANDONED : move_flush(&t->move, tick, t), STEP_FENCE);
    }
}

/* Right before the copies become visible: still ours, still wanted, and known as spares from now
 * on. */
static void fence_all(struct group *g) {
    int64_t now = clock_boot_ms();
    for (struct job_task *t = NULL; (t = next_at(g, t, STEP_FENCE));) {
        if (t->fenced)
            move_ended_badly(t, MOVE_ABANDONED);
        else
            add_renewal(t, now, t->lease->target);
    }
    settle(g);
    for (struct job_task *t = NULL; (t = next_at(g, t, STEP_FENCE));) {
        note_renewal(t, now);
        if (t->verdict < 0) {
            t->fenced = t->verdict;
            move_ended_badly(t, MOVE_ABANDONED);
        } else {
            add_spare(t->lease, t->lease->target, 0);
            t->announced = true;
            t->step = STEP_PUBLISH;
        }
    }
}

static void publish_all(struct group *g) {
    struct job_task *tasks[GROUP_MAX];
    struct move *moves[GROUP_MAX];
    enum move_rc rc[GROUP_MAX];
    size_t n = 0;
    for (struct job_task *t = NULL; (t = next_at(g, t, STEP_PUBLISH));) {
        keep_leases(g);
        enum move_rc published = t->fenced ? MOVE_ABANDONED : move_publish(&t->move, tick, t);
        t->uncommitted = published == MOVE_OK;
        if (published == MOVE_RESTAGE)
            t->step = STEP_STAGE; /* a link was refused: as a copy, then */
        else
            advance(t, published, STEP_SYNC);
    }
    for (struct job_task *t = NULL; (t = next_at(g, t, STEP_SYNC));) {
        tasks[n] = t;
        moves[n++] = &t->move;
    }
    move_sync(moves, n, rc, keep_all, g);
    for (size_t i = 0; i < n; i++)
        advance(tasks[i], rc[i], STEP_DONE);
}

/* What whoever commits, or retires, later must know of the files. */
static void remember(struct job_task *t) {
    struct lease *l = t->lease;
    struct file_id was = file_id_of(&t->move.src), made = file_id_of(&t->move.dst);
    file_id_write(l->was, &was);
    file_id_write(l->made, &made);
    snprintf(l->from, sizeof l->from, "%s", l->src);
    snprintf(l->name, sizeof l->name, "%s", t->row.filename);
    l->to[0] = '\0'; /* until somebody finds it out of date */
}

static void note_done(struct group *g) {
    int64_t took_ms = clock_boot_ms() - g->claimed_ms;
    for (struct job_task *t = NULL; (t = next_at(g, t, STEP_DONE));) {
        remember(t);
        queue_done(&g->batch, t->lease, took_ms, &t->verdict);
    }
    settle(g);
    for (struct job_task *t = NULL; (t = next_at(g, t, STEP_DONE));) {
        if (t->verdict == 0) {
            t->step = STEP_COMMIT;
            t->lease->attempts = t->lease->waits = 0; /* as Redis has it: the commit's own */
        } else /* wanted elsewhere by now, and the copy is a known spare; or nobody knows, and will
                look */
            release(t, 0, t->verdict == -ECANCELED ? "superseded" : "redis was away");
    }
}

static void move_all(struct group *g) {
    levels_close(g->levels);
    for (struct job_task *t = NULL; (t = next_at(g, t, STEP_OPEN));)
        open_files(t);
    part_with_the_large(g);
    while (next_at(g, NULL, STEP_STAGE)) {
        stage_all(g);
        fence_all(g);
        publish_all(g);
    }
    note_done(g);
}

/* ---- commit ---- */

/* Takes the done back: the copy is out of date, and is known as a spare from now on. */
static void take_back(struct job_task *t, const char *why) {
    struct job job;
    read_wanted(t->lease, &job);
    int rc = plan(t, &job, t->lease->src, t->lease->target);
    if (rc == 0)
        put_off(t, why);
    else
        release(t, rc == -ESTALE ? backoff(STALE_DELAY_MS, t->lease->waits) : AWAY_DELAY_MS,
                "the file changed, and the move could not be taken back yet");
}

/* Whether two open files hold the same; what is as it was when one was made of the other does. 1, 0
 * or -1 with errno. */
static int hold_the_same(struct job_task *t, const struct file_id *was, int from,
                         const struct stat *src, int to, const struct stat *dst) {
    struct file_id made, src_is = file_id_of(src), dst_is = file_id_of(dst);
    bool known = file_id_read(t->lease->made, &made) && file_id_same(&src_is, was) &&
                 file_id_same(&dst_is, &made);
    if (known || file_same_inode(src, dst))
        return 1;
    return src->st_size == dst->st_size
               ? file_identical(from, to, (uint64_t)src->st_size, tick_freely, t)
               : 0;
}

/* Whether the copy that another claim made still stands, and is what the source holds: that may
 * have been long ago; one that cannot be read any more is known by its state. MOVE_OK, MOVE_NEWER,
 * MOVE_GONE (there is no copy any more), MOVE_MISSING (there is no source any more), or nobody can
 * say now. */
static enum move_rc compare_ends(struct job_task *t, const struct file_id *was, int src, int dst) {
    struct stat src_st = {0}, dst_st = {0};
    int from = -1, to = -1;
    enum move_rc rc = open_at(t, src, &from, &src_st);
    bool unread = src_st.st_ino && (rc == MOVE_DENIED || rc == MOVE_IO);
    if (rc == MOVE_OK && writers_by_lease(from) == 1)
        rc = MOVE_BUSY;
    if (rc == MOVE_OK || rc == MOVE_MISSING || unread) {
        enum move_rc copy = open_at(t, dst, &to, &dst_st);
        if (copy != MOVE_OK)
            rc = copy == MOVE_MISSING ? MOVE_GONE : copy;
    }
    if (to >= 0 && (rc == MOVE_OK || unread)) {
        int same = hold_the_same(t, was, from, &src_st, to, &dst_st);
        rc = same == 1 ? MOVE_OK : same == 0 ? MOVE_NEWER : unread ? rc : MOVE_IO;
    }
    path_close(&to);
    path_close(&from);
    return rc;
}

/* The same, when the levels can be reached; false: the job was put off, for they cannot now. */
static bool look_at_ends(struct job_task *t, enum move_rc *rc) {
    char text[TEXT_BYTES];
    struct file_id was;
    struct lease *l = t->lease;
    struct levels *levels = t->g->levels;
    *rc = MOVE_OK;
    if (strcmp(t->row.level, l->src) != 0 || !file_id_read(l->was, &was))
        return true; /* it was committed already, or an older worker made it */
    if (has_stray(t))
        return true; /* it has another name by now, or the level another path: the API refuses */
    int src, dst;
    const char *at;
    int opened = levels_both(levels, l->src, l->target, &src, &dst, &at);
    if (opened == -ENOKEY) /* there is no such level any more: the API judges */
        return true;
    if (opened < 0) {
        levels_text(levels, text, sizeof text, at, opened);
        (is_said_once(opened) ? put_off_quietly : put_off)(t, text);
        return false;
    }
    *rc = compare_ends(t, &was, src, dst);
    return true;
}

/* Looks at the source again, right before the commit is asked for. True: ask. */
static bool may_commit(struct job_task *t) {
    char text[TEXT_BYTES];
    enum move_rc rc;
    if (t->taken)
        rc = MOVE_OK; /* its files were looked at just now */
    else if (t->moving)
        rc = move_recheck(&t->move);
    else if (!look_at_ends(t, &rc))
        return false;
    if (rc == MOVE_OK || rc == MOVE_MISSING) /* then the copy is all that there is */
        return true;
    if (rc == MOVE_GONE) {
        take_back(t, "the copy at the target was taken away before its commit");
    } else if (rc == MOVE_CHANGED || rc == MOVE_NEWER) {
        take_back(t, move_rc_text(rc));
    } else if (!was_broken_off(t)) {
        snprintf(text, sizeof text, "before its commit: %s", move_rc_text(rc));
        (rc == MOVE_BUSY ? put_off : retry)(t, text);
    }
    return false;
}

/* ---- while commits are not taken: one asks for all, later and later ---- */

static int64_t ask_again_in_ms(const struct group *g) {
    int64_t left_ms = g->commits.until_ms - clock_mono_ms();
    return left_ms < 0 ? 0 : left_ms;
}

/* Whether it is the API that takes none, or only this one is not taken: a lock on its row. */
static bool none_is_taken(const struct group *g) {
    return g->commits.wait_ms > 0;
}

/* The commit is put off as long as it takes: what is away comes back, a lock is given up, a server
 * takes writes again. Those that wait for the same are due when one may ask again. */
static void commit_waits(struct job_task *t, const char *why) {
    uint64_t waits = t->lease->waits < 4 ? t->lease->waits : 4;
    int64_t delay_ms = AWAY_DELAY_MS << waits;
    if (none_is_taken(t->g))
        delay_ms = ask_again_in_ms(t->g) + 1;
    else if (delay_ms > AWAY_MAX_MS)
        delay_ms = AWAY_MAX_MS;
    release(t, delay_ms + clock_wall_us() % (delay_ms / 4 + 1), why);
}

/* The API decided on `taken` of a round of commits, and on `refused` it did not. */
static void note_round(struct group *g, size_t taken, size_t refused) {
    int64_t wait_ms = g->commits.wait_ms ? 2 * g->commits.wait_ms : ASK_FIRST_MS;
    if (taken > 0) {
        g->commits.wait_ms = 0;
    } else if (refused > 0) { /* not all processes at once */
        g->commits.wait_ms = wait_ms < ASK_MAX_MS ? wait_ms : ASK_MAX_MS;
        g->commits.until_ms =
            clock_mono_ms() + g->commits.wait_ms + clock_wall_us() % (g->commits.wait_ms / 4);
    }
}

/* Whether the answer, or -errno, decides on the commit; else it is to be asked for again. */
static bool is_decided(int answer, const char *said) {
    return answer == 200 || answer == 409 || (answer == 500 && said[0]);
}

/* What /update_sentence answered, or -errno; `said`: its sentence when it was no 200, or "". */
static void committed(struct job_task *t, int answer, const char *said) {
    struct lease *l = t->lease;
    char why[JOB_ERROR_BYTES];
    if (answer == 409 && t->taken) {
        retry(t, "another program says that it moved the file, and the API does not commit that");
    } else if (answer == 409) {
        say_once(t, "the commit was refused", "the commit was refused, looking again", NULL);
        levels_forget(t->g->levels); /* a path may have changed */
        finish(t, 0);
    } else if (answer == 500 && said[0]) {
        retry(t, said); /* a trigger, a right, a constraint */
    } else if (answer == 200) {
        t->uncommitted = false;
        snprintf(t->from, sizeof t->from, "%s", l->src);
        add_spare(l, t->from, l->claimed_ms + (uint64_t)(clock_boot_ms() - t->g->claimed_ms));
        snprintf(t->row.level, sizeof t->row.level, "%s", l->target);
        t->step = STEP_RETIRE;
    } else {
        bool away = answer < 0 || !said[0];
        snprintf(why, sizeof why, "%s%.480s", away ? "the API is away: " : "",
                 away ? log_errno_text(answer < 0 ? answer : -EAGAIN) : said);
        say_once(t, "the commit waits",
                 away ? "the API is away, the commit waits" : "the commit waits", why);
        snprintf(t->g->commits.why, sizeof t->g->commits.why, "%s", why);
        commit_waits(t, why);
    }
}

/* The sentence of an answer that is an error, as the API writes them; else what was there stays. */
static void on_said(void *ctx, size_t i, struct str_view body) {
    char(*said)[JOB_ERROR_BYTES] = ctx;
    yyjson_doc *doc = yyjson_read(body.ptr, body.len, 0);
    const char *error = yyjson_get_str(yyjson_obj_get(yyjson_doc_get_root(doc), "error"));
    if (error)
        snprintf(said[i], JOB_ERROR_BYTES, "%.*s", JOB_ERROR_BYTES - 1, error);
    yyjson_doc_free(doc);
}

/* Asks for the commits of up to `most` jobs at once. */
static void commit_some(struct group *g, size_t most) {
    struct job_task *tasks[GROUP_MAX];
    char said[GROUP_MAX][JOB_ERROR_BYTES];
    char forms[GROUP_MAX][32];
    const char *posts[GROUP_MAX] = {NULL};
    int answers[GROUP_MAX];
    size_t n = 0, taken = 0;
    for (struct job_task *t = NULL; n < most && (t = next_at(g, t, STEP_COMMIT));) {
        if (!may_commit(t))
            continue;
        snprintf(forms[n], sizeof forms[n], "cid=%" PRIu64, t->lease->cid);
        posts[n] = forms[n];
        said[n][0] = '\0';
        tasks[n++] = t;
    }
    http_client_post_each(g->w->api, "/update_sentence", posts, n, POST_TIMEOUT_MS, answers,
                          on_said, said);
    for (size_t i = 0; i < n; i++)
        taken += is_decided(answers[i], said[i]);
    note_round(g, taken, n - taken);
    for (size_t i = 0; i < n; i++)
        committed(tasks[i], answers[i], said[i]);
}

/* While the API took none the last time, one goes ahead. */
static void commit_all(struct group *g) {
    levels_close(g->levels);
    if (none_is_taken(g) && ask_again_in_ms(g) == 0)
        commit_some(g, 1);
    if (!none_is_taken(g))
        commit_some(g, GROUP_MAX);
    for (struct job_task *t = NULL; (t = next_at(g, t, STEP_COMMIT));)
        commit_waits(t, g->commits.why);
}

static void finish_all(struct group *g) {
    for (struct job_task *t = NULL; (t = next_at(g, t, STEP_FINISH));) {
        say(t, LOG_DEBUG, "finished", NULL);
        finish(t, t->n_retired);
    }
}

/* ---- a group ---- */

/* All steps, each for the jobs that are at it. */
static void run_steps(struct group *g) {
    retire_all(g, STEP_CLEAR, STEP_OPEN); /* what is retired is noted at the end of the job */
    move_all(g);
    commit_all(g);
    retire_all(g, STEP_RETIRE, STEP_FINISH);
    finish_all(g);
    settle(g);
    path_dirs_close(&g->moved_in);
}

/* Says which levels these jobs may have us touch. */
static size_t enter(const struct group *g) {
    const char *names[GROUP_MAX * (2 + QUEUE_MAX_SPARES)];
    size_t n = 0;
    for (size_t i = 0; i < g->n; i++) {
        const struct lease *l = &g->leases[i];
        names[n++] = l->src;
        names[n++] = l->target;
        for (size_t k = 0; k < l->n_spares; k++)
            names[n++] = l->spares[k].level;
    }
    return turn_enter(g->w->o->turn, names, n);
}

void group_run(struct group *g) {
    size_t before = enter(g);
    look(g);
    run_steps(g);
    for (struct job_task *t = NULL; (t = next_at(g, t, STEP_LATER));) {
        t->step = STEP_OPEN;
        run_steps(g);
    }
    levels_close(g->levels);
    turn_leave(g->w->o->turn, before);
}

/* Tells Redis of the claims that ended while it was away. True when none is left. */
static bool pay_what_is_owed(struct group *g) {
    for (struct job_task *t = NULL; (t = next_at(g, t, STEP_OWED));)
        tell(t);
    settle(g);
    return !next_at(g, NULL, STEP_OWED);
}

void group_pay(struct group *g) {
    struct child *w = g->w;
    int64_t tried_ms = clock_mono_ms();
    int64_t until_ms = w->stop_ms + w->cfg->drain_timeout_ms / 2;
    while (tried_ms < until_ms && !pay_what_is_owed(g) && clock_mono_ms() - tried_ms < HANGS_MS) {
        child_nap(w, CHILD_RECONNECT_FIRST_MS);
        tried_ms = clock_mono_ms();
    }
}

/* As many jobs together as there are descriptors for; the levels are open, and are again for a
 * moment while they are judged. */
static size_t most_together(const struct group *g) {
    uint64_t kept = FILES_KEPT + 2 * g->levels->ladder.len;
    uint64_t fit = g->files_max > kept ? (g->files_max - kept) / FILES_EACH : 0;
    return fit < 1 ? 1 : fit < GROUP_MAX ? (size_t)fit : GROUP_MAX;
}

_Static_assert((int)TURN_HOLDS_MAX >= (int)GROUP_MAX &&
                   (int)TURN_WHO_BYTES >= (int)JOB_WORKER_BYTES,
               "turn_hold");

/* Says what is to be let go for us if we are killed for a level that hangs. */
static void hold(const struct group *g) {
    struct turn_holds holds = {.n = g->n};
    snprintf(holds.who, sizeof holds.who, "%s", g->w->id);
    for (size_t i = 0; i < g->n; i++)
        holds.each[i] = (struct turn_held){g->leases[i].cid, g->leases[i].token};
    turn_hold(g->w->o->turn, &holds);
}

int group_claim(struct group *g, const struct queue_terms *terms, int64_t *wait_ms) {
    struct child *w = g->w;
    if (!pay_what_is_owed(g) || !w->redis)
        return -EAGAIN;
    int64_t before = clock_boot_ms(); /* the leases count from before the claim */
    size_t most = most_together(g);
    g->n = 0;
    g->want = g->want < most ? g->want : most;
    int rc = child_redis_rc(w, queue_claim(&w->queue, w->redis, w->id, w->cfg->lease_ms, terms,
                                           g->leases, g->want, wait_ms));
    if (rc <= 0)
        return rc;
    g->n = (size_t)rc;
    hold(g);
    g->claimed_ms = g->asked_ms = before;
    for (size_t i = 0; i < g->n; i++) {
        struct job_task *t = &g->tasks[i];
        t->g = g;
        t->lease = &g->leases[i];
        t->step = STEP_LOOK;
        t->renewed_ms = before;
        t->fenced = 0;
        t->moving = t->begun = t->asks = t->announced = t->uncommitted = t->taken = t->behind =
            false;
        t->from[0] = '\0';
    }
    return rc;
}

struct group *group_new(struct child *w, struct levels *levels, void (*be_seen)(void *ctx),
                        void *ctx) {
    struct group *g = calloc(1, sizeof *g);
    if (!g)
        return NULL;
    g->w = w;
    g->levels = levels;
    g->be_seen = be_seen;
    g->ctx = ctx;
    g->want = 1;
    g->files_max = sys_files_max();
    queue_batch_init(&g->batch, &w->queue, w->id);
    g->leases = calloc(GROUP_MAX, sizeof *g->leases);
    if (!g->leases) {
        free(g);
        return NULL;
    }
    return g;
}

void group_free(struct group *g) {
    if (!g)
        return;
    queue_batch_release(&g->batch);
    free(g->leases);
    free(g);
}
