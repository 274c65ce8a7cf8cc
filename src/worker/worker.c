#include "worker/worker.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/statvfs.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/name.h"
#include "fs/level.h"
#include "fs/move.h"
#include "fs/path.h"
#include "fs/retire.h"
#include "job/catalog.h"
#include "job/queue.h"
#include "job/watch.h"
#include "net/http_client.h"

enum {
    CALL_TIMEOUT_MS = 5000, /* Redis and the database: one that hangs longer is away */
    POST_TIMEOUT_MS = 5000, /* the API answers within its own 0.9 s time-outs */
    RECONNECT_FIRST_MS = 50,
    RECONNECT_MAX_MS = 2000,
    SLEEP_MAX_MS = 10000,
    SCAN_STEP_MS = 20, /* between two batches of a scan: at most some 50,000 keys a second */
    SCAN_REST = 10,    /* a scan rests ten times as long as it took */
    ATTEMPTS_MAX = 5,
    CRASHES_MAX = 5,
    BACKOFF_FIRST_MS = 1000,
    BACKOFF_MAX_MS = 60000,
    AWAY_DELAY_MS = 1000,     /* API or database away: costs no attempt */
    NOSPACE_DELAY_MS = 10000, /* a full level: somebody has to make room; doubled as BUSY is */
    BUSY_DELAY_MS = 2000,     /* doubled with each further time, up to BACKOFF_MAX_MS */
    LEVELS_AGE_MS = 3000,
    USE_BYTES = LADDER_MAX_LEVELS * (JOB_LEVEL_BYTES + 48),
    TELL_MS = 1000,       /* progress is told at most this often */
    SEEN_MS = 5000,       /* and that we are alive */
    ALIVE_MS = 30000,     /* without a word for this long, we are not */
    STALE_DELAY_MS = 100, /* what was read is not what stands there: a post came, or junk stays */
    TICK_MS = 100,        /* between two looks at the lease, while the bandwidth makes us wait */
    CHUNK_LEAST_BYTES = 64 * 1024,      /* copied at once under a low bandwidth */
    CHUNK_MOST_BYTES = 8 * 1024 * 1024, /* some 100 ms on a slow disk */
    TEXT_BYTES = JOB_NAME_BYTES + 2 * JOB_LEVEL_BYTES + 64,
};

struct worker {
    const struct worker_options *o;
    const struct config *cfg;
    struct queue queue;
    struct redis *redis;
    struct db *db;
    struct http_client *api;
    struct ladder ladder;
    char level_ids[LADDER_MAX_LEVELS][LEVEL_ID_BYTES]; /* "": no marker was ever seen */
    bool level_warned[LADDER_MAX_LEVELS];
    int64_t levels_read_ms;       /* clock_mono_ms, 0: never */
    enum level_check level_state; /* of the level that open_level refused with -ESTALE */
    char id[JOB_WORKER_BYTES];
    sigset_t signals, unblocked;
    int64_t stop_ms; /* clock_mono_ms of the signal, 0: none came */
    struct lease lease;
    struct queue_terms terms;
    char *reach; /* cfg->levels as queue_terms wants it */
    bool owed;   /* the claim ended, but Redis could not be told: it is told before the next */
    int64_t claimed_ms;   /* clock_boot_ms of the claim */
    uint64_t moved_bytes; /* of the present file, as the last tick said */
    int64_t renewed_ms;   /* clock_boot_ms from before the claim or the last renewal */
    int64_t asked_ms;     /* clock_boot_ms of the last attempt at one */
    int64_t seen_ms;      /* clock_mono_ms when we last said that we are alive, 0: never */
    int fenced;           /* why the move must not be published: 0, -ESTALE, -ECANCELED, -EINTR */
    struct content row;
    int64_t backoff_ms;
    bool scanning;
    uint64_t scan_cursor;
    int64_t scan_next_ms, scan_started_ms;
};

static void say(struct worker *w, enum log_level level, const char *msg, const char *error) {
    if (error)
        log_event(level, msg, LOG_STR("worker_id", w->id), LOG_U64("cid", w->lease.cid),
                  LOG_STR("error", error));
    else
        log_event(level, msg, LOG_STR("worker_id", w->id), LOG_U64("cid", w->lease.cid));
}

/* ---- signals ---- */

static void on_signal(int signo) {
    (void)signo; /* its work is to end a wait */
}

static bool stopping(struct worker *w) {
    struct timespec now = {0, 0};
    while (sigtimedwait(&w->signals, NULL, &now) > 0)
        if (w->stop_ms == 0)
            w->stop_ms = clock_mono_ms();
    return w->stop_ms != 0;
}

static void set_signals(struct worker *w) {
    struct sigaction sa = {.sa_handler = on_signal};
    sigemptyset(&w->signals);
    sigaddset(&w->signals, SIGTERM);
    sigaddset(&w->signals, SIGINT);
    sigprocmask(SIG_BLOCK, &w->signals, &w->unblocked);
    sigdelset(&w->unblocked, SIGTERM);
    sigdelset(&w->unblocked, SIGINT);
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGINT, &sa, NULL);
    signal(SIGHUP, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGIO, SIG_IGN);   /* a writer met the lease by which we look for writers */
    signal(SIGXFSZ, SIG_IGN); /* a file size limit is EFBIG, not death */
}

static void nap(struct worker *w, int64_t ms) {
    struct timespec ts = {ms / 1000, (long)(ms % 1000) * 1000000};
    if (sigtimedwait(&w->signals, NULL, &ts) > 0 && w->stop_ms == 0)
        w->stop_ms = clock_mono_ms();
}

/* ---- connections ---- */

static void drop_redis(struct worker *w) {
    redis_close(w->redis);
    w->redis = NULL;
}

static void drop_db(struct worker *w) {
    db_close(w->db);
    w->db = NULL;
}

/* Opens what is closed. 0 or -errno. */
static int connect_all(struct worker *w) {
    int rc = 0;
    if (!w->redis)
        rc = redis_open(&w->o->redis, CALL_TIMEOUT_MS, &w->redis);
    if (rc == 0 && !w->db)
        rc = db_open(&w->o->db, CALL_TIMEOUT_MS, &w->db);
    if (rc == 0) {
        if (w->backoff_ms > RECONNECT_FIRST_MS)
            log_event(LOG_INFO, "connected again", LOG_STR("worker_id", w->id));
        w->backoff_ms = RECONNECT_FIRST_MS;
        return 0;
    }
    if (w->backoff_ms == RECONNECT_FIRST_MS)
        log_event(LOG_WARN, w->redis ? "database is away" : "redis is away",
                  LOG_STR("worker_id", w->id), LOG_ERRNO(rc));
    return rc;
}

static void wait_to_reconnect(struct worker *w) {
    nap(w, w->backoff_ms);
    w->backoff_ms = w->backoff_ms * 2 > RECONNECT_MAX_MS ? RECONNECT_MAX_MS : w->backoff_ms * 2;
}

/* Every answer of Redis passes here: a connection that is no good any more is dropped. */
static int redis_rc(struct worker *w, int rc) {
    if (w->redis && !redis_usable(w->redis))
        drop_redis(w);
    return rc;
}

static int db_rc(struct worker *w, int rc) {
    if (rc == -ENOTCONN)
        drop_db(w);
    return rc;
}

static void know_level(void *ctx, struct str_view name, struct str_view id) {
    struct worker *w = ctx;
    const struct level *l = ladder_find(&w->ladder, name);
    if (l)
        (void)str_copy(w->level_ids[l - w->ladder.levels], LEVEL_ID_BYTES, id);
}

static int read_levels(struct worker *w, bool fresh) {
    if (!fresh && w->levels_read_ms && clock_mono_ms() - w->levels_read_ms < LEVELS_AGE_MS)
        return 0;
    int rc = w->db ? db_rc(w, catalog_levels(w->db, &w->ladder)) : -ENOTCONN;
    if (rc < 0)
        return rc;
    w->levels_read_ms = 0; /* until the ids are here too */
    memset(w->level_ids, 0, sizeof w->level_ids);
    rc = w->redis ? redis_rc(w, queue_level_ids(w->redis, know_level, w)) : -ENOTCONN;
    if (rc == 0)
        w->levels_read_ms = clock_mono_ms();
    return rc;
}

/* Whether the directory is the level's; a marker that is seen for the first time is remembered. */
static bool level_right(struct worker *w, const struct level *l, int dir) {
    size_t i = (size_t)(l - w->ladder.levels);
    char id[LEVEL_ID_BYTES];
    w->level_state = level_check(dir, l->name, w->level_ids[i], id);
    if (w->level_state == LEVEL_RIGHT && !w->level_ids[i][0]) {
        memcpy(w->level_ids[i], id, sizeof id);
        if (w->redis)
            redis_rc(w, queue_level_know(w->redis, l->name, id, false));
    }
    if (w->level_state == LEVEL_UNMARKED && !w->cfg->require_markers && !w->level_warned[i]) {
        log_event(LOG_WARN, level_check_text(LEVEL_UNMARKED), LOG_STR("worker_id", w->id),
                  LOG_STR("at", l->name));
        w->level_warned[i] = true;
    }
    return w->level_state == LEVEL_RIGHT ||
           (w->level_state == LEVEL_UNMARKED && !w->cfg->require_markers);
}

/* Opens a level's directory: a descriptor or -errno; -ENOKEY: there is no such level; -ESTALE: it
 * is not the directory that it was. */
static int open_level(struct worker *w, const char *name) {
    const struct level *l = ladder_find(&w->ladder, str_view(name));
    if (!l) {
        int rc = read_levels(w, true);
        if (rc < 0)
            return -EAGAIN; /* nobody can say whether there is such a level */
        l = ladder_find(&w->ladder, str_view(name));
    }
    if (!l)
        return -ENOKEY;
    int fd = path_open_level(l->path, (const char *const *)w->cfg->roots, (size_t)w->cfg->n_roots);
    if (fd >= 0 && !level_right(w, l, fd)) {
        close(fd);
        w->levels_read_ms = 0; /* what was remembered may be out of date */
        return -ESTALE;
    }
    return fd;
}

static void level_text(struct worker *w, char *out, size_t cap, const char *name, int rc) {
    if (rc == -ESTALE)
        snprintf(out, cap, "the directory of the level %s %s", name,
                 level_check_text(w->level_state));
    else if (rc == -ENOKEY)
        snprintf(out, cap, "the level %s does not exist", name);
    else if (rc == -EXDEV)
        snprintf(out, cap, "the path of the level %s lies under none of the roots", name);
    else
        snprintf(out, cap, "the directory of the level %s cannot be opened: %s", name,
                 log_errno_text(rc));
}

/* ---- to be seen ---- */

static void add_use(struct worker *w, struct buf *use, const struct level *l) {
    struct statvfs vfs;
    int fd = path_open_level(l->path, (const char *const *)w->cfg->roots, (size_t)w->cfg->n_roots);
    if (fd < 0)
        return;
    if (level_right(w, l, fd) && fstatvfs(fd, &vfs) == 0)
        buf_addf(use, "%s\n%" PRIu64 " %" PRIu64 "\n", l->name,
                 (uint64_t)(vfs.f_blocks - vfs.f_bfree) * vfs.f_frsize,
                 (uint64_t)vfs.f_bavail * vfs.f_frsize);
    close(fd);
}

/* Says every few seconds that we are alive; one worker of a host also how full the levels are. */
static void be_seen(struct worker *w) {
    struct buf use;
    if (!w->redis || (w->seen_ms && clock_mono_ms() - w->seen_ms < SEEN_MS))
        return;
    w->seen_ms = clock_mono_ms();
    int turn = redis_rc(
        w, watch_hello(&w->queue, w->redis, w->id, ALIVE_MS, SEEN_MS, (struct str_view){"", 0}));
    if (turn != 1 || !w->db || read_levels(w, false) < 0)
        return;
    buf_init(&use, USE_BYTES);
    for (size_t i = 0; i < w->ladder.len; i++)
        add_use(w, &use, &w->ladder.levels[i]);
    if (!use.failed && w->redis)
        redis_rc(w, watch_hello(&w->queue, w->redis, w->id, ALIVE_MS, SEEN_MS,
                                (struct str_view){use.data, use.len}));
    buf_release(&use);
}

/* ---- ends of a claim ---- */

/* Whatever ended the claim: if Redis could not be asked, we owe it a word, so that nobody takes us
 * for dead of this job. */
static int settle(struct worker *w, int rc) {
    w->owed = rc < 0 && rc != -ESTALE && rc != -ECANCELED;
    return redis_rc(w, rc);
}

static void release(struct worker *w, int64_t delay_ms, bool counts, const char *why) {
    settle(w, w->redis ? queue_release(&w->queue, w->redis, &w->lease, w->id, delay_ms, counts, why)
                       : -ENOTCONN);
}

static void fail(struct worker *w, enum job_status status, const char *msg, const char *error,
                 const char *drop_spare) {
    say(w, LOG_ERROR, msg, error);
    int rc = settle(
        w, w->redis ? queue_fail(&w->queue, w->redis, &w->lease, w->id, status, error, drop_spare)
                    : -ENOTCONN);
    if (rc == -ECANCELED)
        release(w, 0, false, "superseded");
}

static int finish(struct worker *w, const char *const *retired, size_t n) {
    return settle(w, w->redis ? queue_finish(&w->queue, w->redis, &w->lease, w->id, retired, n)
                              : -ENOTCONN);
}

/* `first_ms`, doubled `times` times, bounded; and up to a quarter more, so that jobs which failed
 * together do not all come back together. */
static int64_t backoff(int64_t first_ms, uint64_t times) {
    int64_t delay_ms = first_ms << (times < 16 ? times : 16);
    if (delay_ms > BACKOFF_MAX_MS)
        delay_ms = BACKOFF_MAX_MS;
    return delay_ms + clock_wall_us() % (delay_ms / 4);
}

static void retry(struct worker *w, const char *error) {
    if (w->lease.attempts + 1 >= ATTEMPTS_MAX) {
        char text[JOB_ERROR_BYTES];
        snprintf(text, sizeof text, "given up after %d attempts: %.400s", ATTEMPTS_MAX, error);
        fail(w, JOB_DEAD, "the job is dead", text, NULL);
        return;
    }
    say(w, LOG_WARN, "will be tried again", error);
    release(w, backoff(BACKOFF_FIRST_MS, w->lease.attempts), true, error);
}

/* What somebody else must mend first costs no attempt. */
static void put_off(struct worker *w, const char *why) {
    char text[TEXT_BYTES];
    snprintf(text, sizeof text, "%s is put off", w->row.filename);
    say(w, LOG_WARN, text, why);
    release(w, backoff(BUSY_DELAY_MS, w->lease.waits), false, why);
}

/* ---- retirement ---- */

/* Asks the database whether the content is still where we believe: retire_run's confirm. */
static int confirm(void *ctx) {
    struct worker *w = ctx;
    struct content now;
    int rc = w->db ? db_rc(w, catalog_content(w->db, w->lease.cid, &now)) : -ENOTCONN;
    if (rc <= 0)
        return rc;
    return strcmp(now.level, w->row.level) == 0 && strcmp(now.filename, w->row.filename) == 0;
}

/* Retires the spare at `level`; `m` is the move that left it, or NULL. True: none is left there. */
static bool retire_one(struct worker *w, const char *level, struct move *m, int auth_fd) {
    char text[TEXT_BYTES];
    int error = 0;
    int fd = open_level(w, level);
    if (fd < 0) {
        level_text(w, text, sizeof text, level, fd);
        say(w, LOG_WARN, text, NULL);
        return fd == -ENOKEY; /* a level that is gone cannot be cleaned */
    }
    struct retire r = {.cid = w->lease.cid,
                       .name = w->row.filename,
                       .spare_level = fd,
                       .auth_level = auth_fd,
                       .move = m,
                       .confirm = confirm,
                       .ctx = w};
    enum move_rc rc = retire_run(&r, &error);
    close(fd);
    if (rc == MOVE_OK)
        return true;
    snprintf(text, sizeof text, "%s in %s is left: %s", w->row.filename, level, move_rc_text(rc));
    say(w, LOG_WARN, text, error ? log_errno_text(error) : NULL);
    return rc == MOVE_CHANGED || rc == MOVE_NOT_REGULAR || rc == MOVE_CONFLICT || rc == MOVE_ALIAS;
}

/* How long a copy is to stay yet for readers with a cache (--retire-delay). */
static int64_t stays_ms(const struct worker *w, const struct spare *s) {
    if (s->since_ms == 0 || w->cfg->retire_delay_ms == 0)
        return 0;
    int64_t now_ms = (int64_t)w->lease.claimed_ms + clock_boot_ms() - w->claimed_ms;
    int64_t left_ms = (int64_t)s->since_ms + w->cfg->retire_delay_ms - now_ms;
    return left_ms < 0 ? 0 : left_ms;
}

/* How retire_all ended; the claim is given up with everything but RETIRED. */
enum retired { RETIRED, RETIRE_LATER };

/*
 * Retires every spare but the one at `keep` (may be NULL: then those that are to stay for a while
 * make the job wait). `m` is the move that left the one at `from`. *n of them are gone and stand in
 * `retired`.
 */
static enum retired retire_all(struct worker *w, const char *from, struct move *m, const char *keep,
                               const char *retired[QUEUE_MAX_SPARES], size_t *n) {
    char text[TEXT_BYTES];
    int64_t wait_ms = 0;
    bool failed = false;
    int auth = -1;
    *n = 0;
    for (size_t i = 0; i < w->lease.n_spares; i++) {
        const struct spare *s = &w->lease.spares[i];
        int64_t left_ms = stays_ms(w, s);
        if (strcmp(s->level, w->row.level) == 0) { /* it is the authoritative one by now */
            retired[(*n)++] = s->level;
            continue;
        }
        if (left_ms > wait_ms)
            wait_ms = left_ms;
        if (left_ms > 0 || (keep && strcmp(s->level, keep) == 0))
            continue;
        if (auth < 0 && (auth = open_level(w, w->row.level)) < 0) {
            level_text(w, text, sizeof text, w->row.level, auth);
            put_off(w, text);
            return RETIRE_LATER;
        }
        if (retire_one(w, s->level, from && strcmp(s->level, from) == 0 ? m : NULL, auth))
            retired[(*n)++] = s->level;
        else
            failed = true;
    }
    path_close(&auth);
    if (!failed && (wait_ms == 0 || keep))
        return RETIRED;
    release(w, failed ? backoff(BUSY_DELAY_MS, w->lease.waits) : wait_ms + 1, false,
            failed ? "a spare copy could not be retired yet" : "the old copy stays for a while");
    return RETIRE_LATER;
}

/* The content is where it belongs: retires what is spare, and finishes. */
static void retire_and_finish(struct worker *w, const char *from, struct move *m) {
    const char *retired[QUEUE_MAX_SPARES];
    size_t n;
    if (retire_all(w, from, m, NULL, retired, &n) == RETIRED && finish(w, retired, n) == 0)
        say(w, LOG_DEBUG, "finished", NULL);
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

/* ---- commit ---- */

/* Posts /update_sentence. 1: committed; 0: not (the job was planned anew); -errno: the API is away.
 */
static int commit(struct worker *w) {
    char form[40];
    snprintf(form, sizeof form, "cid=%" PRIu64, w->lease.cid);
    int status = http_client_post(w->api, "/update_sentence", form, POST_TIMEOUT_MS);
    if (status == 200)
        return 1;
    if (status == 409)
        return 0;
    return status < 0 ? status : -EAGAIN;
}

/* From `done` on: commit, retire what is now spare, finish. `m` is the move just made, or NULL. */
static void commit_and_retire(struct worker *w, struct move *m) {
    char from[JOB_LEVEL_BYTES];
    int rc = commit(w);
    if (rc < 0) {
        say(w, LOG_WARN, "the API is away, the commit waits", log_errno_text(rc));
        release(w, AWAY_DELAY_MS, false, "the API is away");
        return;
    }
    if (rc == 0) {
        say(w, LOG_WARN, "the commit was refused, looking again", NULL);
        finish(w, NULL, 0);
        return;
    }
    snprintf(from, sizeof from, "%s", w->lease.src);
    add_spare(&w->lease, from, w->lease.claimed_ms + (uint64_t)(clock_boot_ms() - w->claimed_ms));
    snprintf(w->row.level, sizeof w->row.level, "%s", w->lease.target);
    retire_and_finish(w, from, m);
}

/* ---- the move ---- */

/* Renews the claim and tells how far the move is; with `spare` as of queue_renew. */
static int renew(struct worker *w, const char *spare) {
    struct progress *p = &w->lease.progress;
    int64_t now = clock_boot_ms();
    int64_t since_ms = now - w->renewed_ms;
    if (since_ms > 0 && p->untold_bytes) {
        uint64_t rate = p->untold_bytes * 1000 / (uint64_t)since_ms;
        p->bytes_per_s = p->bytes_per_s ? (3 * p->bytes_per_s + rate) / 4 : rate;
    }
    w->asked_ms = now;
    int rc = w->redis ? 0 : redis_open(&w->o->redis, CALL_TIMEOUT_MS, &w->redis);
    if (rc == 0)
        rc = redis_rc(w,
                      queue_renew(&w->queue, w->redis, &w->lease, w->id, w->cfg->lease_ms, spare));
    if (rc == 0) {
        w->renewed_ms = now;
        p->untold_bytes = 0;
    }
    return rc;
}

/* Keeps the lease while it runs, looks for a stop; w->fenced says whether to go on. */
static void keep_lease(struct worker *w) {
    int64_t now = clock_boot_ms();
    int64_t pause_ms = w->cfg->lease_ms / 3 < TELL_MS ? w->cfg->lease_ms / 3 : TELL_MS;
    if (stopping(w) && clock_mono_ms() - w->stop_ms > w->cfg->drain_timeout_ms / 2)
        w->fenced = -EINTR;
    if (w->fenced || now - w->asked_ms < pause_ms)
        return;
    int rc = renew(w, NULL);
    if (rc == -ESTALE || rc == -ECANCELED || (rc < 0 && now - w->renewed_ms >= w->cfg->lease_ms))
        w->fenced = rc;
    else
        be_seen(w);
}

/* Comparing comes after copying, and starts from 0 again: what was copied stays copied. */
static void note_progress(struct worker *w, uint64_t done_bytes, uint64_t total_bytes) {
    struct progress *p = &w->lease.progress;
    p->total_bytes = total_bytes;
    if (done_bytes > p->done_bytes) {
        p->untold_bytes += done_bytes - p->done_bytes;
        p->done_bytes = done_bytes;
    }
}

/* Between chunks: waits as the bandwidth asks. */
static int tick(void *ctx, uint64_t done_bytes, uint64_t total_bytes) {
    struct worker *w = ctx;
    note_progress(w, done_bytes, total_bytes);
    uint64_t bytes = done_bytes - (done_bytes < w->moved_bytes ? 0 : w->moved_bytes);
    int64_t wait_ms = rate_take(w->o->rate, bytes);
    w->moved_bytes = done_bytes;
    keep_lease(w);
    while (wait_ms > 0 && !w->fenced) {
        int64_t ms = wait_ms < TICK_MS ? wait_ms : TICK_MS;
        nap(w, ms);
        wait_ms -= ms;
        keep_lease(w);
    }
    return w->fenced ? -1 : 0;
}

/* Right before the copy becomes visible: still ours, still wanted, and known as a spare from now
 * on. */
static int fence(struct worker *w) {
    int rc = renew(w, w->lease.target);
    if (rc == 0)
        add_spare(&w->lease, w->lease.target, 0);
    return rc;
}

static void move_ended_badly(struct worker *w, struct move *m, enum move_rc rc, bool fenced) {
    char text[TEXT_BYTES];
    const char *drop = fenced && rc == MOVE_CONFLICT ? w->lease.target : NULL;
    const char *error = m->error ? log_errno_text(m->error) : move_rc_text(rc);
    switch (rc) {
    case MOVE_MISSING:
        snprintf(text, sizeof text, "%s not exists", w->row.filename);
        fail(w, JOB_DEAD, text, "the source file does not exist", drop);
        break;
    case MOVE_CONFLICT:
        snprintf(text, sizeof text, "%s already exists in %s", w->row.filename, w->lease.target);
        fail(w, JOB_CONFLICT, text, "a different file has the name at the target", drop);
        break;
    case MOVE_NOT_REGULAR:
    case MOVE_UNSUPPORTED:
    case MOVE_UNDURABLE:
    case MOVE_ALIAS:
        snprintf(text, sizeof text, "%s cannot be moved", w->row.filename);
        fail(w, JOB_DEAD, text, move_rc_text(rc), drop);
        break;
    case MOVE_NOSPACE:
        snprintf(text, sizeof text, "no space left in %s", w->lease.target);
        say(w, LOG_WARN, text, error);
        if (w->redis) /* the level waits, not only this job: others would only find the same */
            redis_rc(w, queue_pause(&w->queue, w->redis, w->lease.target,
                                    backoff(NOSPACE_DELAY_MS, w->lease.waits)));
        release(w, 0, false, move_rc_text(rc));
        break;
    case MOVE_BUSY:
    case MOVE_HARDLINKS:
    case MOVE_CHANGED:
        put_off(w, move_rc_text(rc));
        break;
    case MOVE_ABANDONED:
        say(w, LOG_INFO,
            w->fenced == -EINTR ? "abandoned, stopping" : "abandoned, no longer wanted", NULL);
        release(w, 0, false, "abandoned");
        break;
    default:
        snprintf(text, sizeof text, "%s: %s", m->step ? m->step : "move", error);
        retry(w, text);
    }
}

/* Stage, fence, publish. A refused link is staged again as a copy. */
static enum move_rc stage_and_publish(struct worker *w, struct move *m, bool *fenced) {
    for (;;) {
        enum move_rc rc = move_stage(m, tick, w);
        if (rc != MOVE_OK)
            return rc;
        int fence_rc = fence(w);
        if (fence_rc < 0) {
            w->fenced = fence_rc;
            return MOVE_ABANDONED;
        }
        *fenced = true;
        rc = move_publish(m);
        if (rc != MOVE_RESTAGE)
            return rc;
    }
}

static void move_between(struct worker *w, int src_fd, int dst_fd) {
    char text[TEXT_BYTES];
    struct move m;
    bool fenced = false;
    enum move_rc rc = move_begin(&m, w->lease.cid, src_fd, dst_fd, w->row.filename);
    m.verify = w->cfg->verify;
    m.chunk_bytes = rate_chunk_bytes(w->o->rate, CHUNK_LEAST_BYTES, CHUNK_MOST_BYTES);
    w->moved_bytes = 0;
    if (rc == MOVE_OK) {
        snprintf(text, sizeof text, "%s moves %s to %s", w->row.filename, w->lease.src,
                 w->lease.target);
        say(w, LOG_INFO, text, NULL);
        rc = stage_and_publish(w, &m, &fenced);
    }
    if (rc != MOVE_OK) {
        move_ended_badly(w, &m, rc, fenced);
        move_release(&m);
        return;
    }
    int done = redis_rc(
        w, queue_done(&w->queue, w->redis, &w->lease, w->id, clock_boot_ms() - w->claimed_ms));
    if (done == 0)
        commit_and_retire(w, &m);
    else /* wanted elsewhere by now, and the copy is a known spare; or nobody knows, and will look
          */
        release(w, 0, false, done == -ECANCELED ? "superseded" : "redis was away");
    move_release(&m);
}

static void move_job(struct worker *w) {
    char text[TEXT_BYTES];
    enum name_check name = name_check(w->row.filename);
    if (name != NAME_OK) {
        fail(w, JOB_DEAD, "the filename is refused", name_check_text(name), NULL);
        return;
    }
    int src = open_level(w, w->lease.src);
    int dst = src < 0 ? -1 : open_level(w, w->lease.target);
    int rc = src < 0 ? src : dst < 0 ? dst : 0;
    if (rc == 0) {
        move_between(w, src, dst);
    } else {
        level_text(w, text, sizeof text, src < 0 ? w->lease.src : w->lease.target, rc);
        if (rc == -ENOKEY || rc == -EXDEV || rc == -EINVAL)
            fail(w, JOB_DEAD, "the job is dead", text, NULL);
        else
            put_off(w, text); /* a mount that is missing, or not the right one */
    }
    path_close(&src);
    path_close(&dst);
}

/* ---- one job ---- */

/* Brings the claimed job in line with its row and with what stands in its JSON, which another
 * program may have written. 0: go on; 1: it is dealt with; -errno. */
static int align(struct worker *w) {
    struct lease *l = &w->lease;
    struct job job;
    enum job_parse why = job_read(str_view(l->json), l->cid, &job);
    if (l->state == JOB_STATE_NONE &&
        (why != JOB_OK || job.status == JOB_DEAD || job.status == JOB_CONFLICT)) {
        finish(w, NULL, 0); /* not a job after all */
        return 1;
    }
    if (why != JOB_OK) {
        memset(&job, 0, sizeof job); /* the index knows the job though its JSON was damaged */
        job.cid = l->cid;
        snprintf(job.target, sizeof job.target, "%s", l->target);
    }
    bool same = why == JOB_OK && l->state != JOB_STATE_NONE && strcmp(job.target, l->target) == 0 &&
                strcmp(l->src, w->row.level) == 0 && strcmp(l->seen, w->row.seen) == 0 &&
                strcmp(job.filename, w->row.filename) == 0 && strcmp(job.db_level, l->src) == 0;
    if (same)
        return 0;
    snprintf(job.db_level, sizeof job.db_level, "%s", w->row.level);
    snprintf(job.filename, sizeof job.filename, "%s", w->row.filename);
    int rc = redis_rc(
        w, queue_begin(&w->queue, w->redis, l, w->id, &job, w->row.seen, str_view(l->json)));
    if (rc < 0)
        return rc;
    bool unseen = l->state == JOB_STATE_NONE || strcmp(l->target, job.target) != 0;
    l->state = JOB_STATE_CLAIMED;
    snprintf(l->src, sizeof l->src, "%s", w->row.level);
    snprintf(l->target, sizeof l->target, "%s", job.target);
    if (!unseen || strcmp(l->src, l->target) == 0)
        return 0;
    release(w, 0, false, "its gates were not asked"); /* nobody knew where it was to go */
    return 1;
}

static void run_unstarted(struct worker *w) {
    int rc = align(w);
    if (rc < 0)
        release(w, rc == -ESTALE ? backoff(STALE_DELAY_MS, w->lease.waits) : AWAY_DELAY_MS, false,
                "it changed while it was read");
    if (rc != 0)
        return;
    const char *retired[QUEUE_MAX_SPARES];
    size_t n;
    if (strcmp(w->lease.src, w->lease.target) == 0) /* it is there already */
        retire_and_finish(w, NULL, NULL);
    else if (retire_all(w, NULL, NULL, w->lease.target, retired, &n) == RETIRED)
        move_job(w); /* what is retired is noted at the end of the job */
}

static void run_job(struct worker *w) {
    enum job_state state = w->lease.state;
    if (w->lease.crashes >= CRASHES_MAX && state == JOB_STATE_CLAIMED) {
        fail(w, JOB_DEAD, "the job is dead", "five workers died of it", NULL);
        return;
    }
    int rc = db_rc(w, read_levels(w, false));
    if (rc == 0)
        rc = db_rc(w, catalog_content(w->db, w->lease.cid, &w->row));
    if (rc < 0) {
        release(w, AWAY_DELAY_MS, false, "the database is away");
        return;
    }
    if (rc == 0) {
        if (state != JOB_STATE_NONE)
            fail(w, JOB_DEAD, "the job is dead", "the content is not in the catalogue", NULL);
        else
            finish(w, NULL, 0);
        return;
    }
    switch (job_state_phase(state)) {
    case JOB_PHASE_COMMIT:
        commit_and_retire(w, NULL);
        break;
    case JOB_PHASE_RETIRE:
    case JOB_PHASE_ENDED:
        retire_and_finish(w, NULL, NULL);
        break;
    case JOB_PHASE_MOVE:
        run_unstarted(w);
    }
}

/* ---- looking for work ---- */

/* One batch of the reconciling scan, when it is this worker's turn. */
static void scan_some(struct worker *w) {
    struct queue_found found[QUEUE_SCAN_MAX];
    size_t n = 0;
    int64_t now = clock_mono_ms();
    if (!w->scanning) {
        if (now < w->scan_next_ms)
            return;
        w->scan_next_ms = now + w->cfg->scan_interval_ms;
        if (redis_rc(w, queue_scan_turn(w->redis, w->id, w->cfg->scan_interval_ms)) != 1)
            return;
        w->scanning = true;
        w->scan_cursor = 0;
        w->scan_started_ms = now;
    }
    if (redis_rc(w, queue_scan(&w->queue, w->redis, &w->scan_cursor, found, &n)) < 0) {
        w->scanning = false;
        return;
    }
    for (size_t i = 0; i < n; i++) {
        if (found[i].is_job)
            log_event(LOG_INFO, "found a job that another program wrote",
                      LOG_STR("worker_id", w->id), LOG_U64("cid", found[i].cid));
        else
            log_event(LOG_WARN, "a key is no job and is left alone", LOG_STR("worker_id", w->id),
                      LOG_U64("cid", found[i].cid), LOG_STR("error", job_parse_text(found[i].why)));
    }
    if (w->scan_cursor == 0) {
        int64_t rest = (clock_mono_ms() - w->scan_started_ms) * SCAN_REST;
        w->scanning = false;
        w->scan_next_ms =
            clock_mono_ms() + (rest > w->cfg->scan_interval_ms ? rest : w->cfg->scan_interval_ms);
    }
}

static void sleep_until(struct worker *w, int64_t due_ms) {
    int64_t wait = SLEEP_MAX_MS;
    int64_t scan = w->scanning ? SCAN_STEP_MS : w->scan_next_ms - clock_mono_ms();
    if (due_ms >= 0 && due_ms < wait)
        wait = due_ms;
    if (scan < wait)
        wait = scan;
    int rc = queue_sleep(w->redis, wait > 0 ? wait : 1, &w->unblocked);
    if (rc == -EINTR) {
        w->stop_ms = clock_mono_ms();
        drop_redis(w); /* what the owed reply took is put back from a new connection */
        if (redis_open(&w->o->redis, CALL_TIMEOUT_MS, &w->redis) == 0)
            redis_rc(w, queue_wake(w->redis));
    } else if (redis_rc(w, rc) < 0) {
        nap(w, RECONNECT_FIRST_MS); /* a sleep that fails must not become a spin */
    }
}

static void step(struct worker *w) {
    int64_t wait_ms = -1;
    if (w->owed)
        release(w, 0, false, "redis was away");
    if (!w->redis || w->owed) {
        nap(w, RECONNECT_FIRST_MS);
        return;
    }
    int64_t before = clock_boot_ms(); /* the lease counts from before the claim */
    w->terms.opens_ms = window_opens_ms(&w->cfg->window, time(NULL));
    int rc = redis_rc(w, queue_claim(&w->queue, w->redis, w->id, w->cfg->lease_ms, &w->terms,
                                     &w->lease, &wait_ms));
    if (rc == 1) {
        w->renewed_ms = w->asked_ms = before;
        w->claimed_ms = before;
        w->fenced = 0;
        run_job(w);
        be_seen(w);
        return;
    }
    if (rc < 0) {
        nap(w, RECONNECT_FIRST_MS);
        return;
    }
    scan_some(w);
    be_seen(w);
    if (w->redis && !stopping(w))
        sleep_until(w, wait_ms);
}

/* host.pid.nonce, of letters that need no escape anywhere. */
static void make_id(struct worker *w) {
    char host[65] = "host";
    uint32_t nonce = 0;
    gethostname(host, sizeof host - 1);
    for (char *p = host; *p; p++)
        if (!isalnum((unsigned char)*p) && *p != '-')
            *p = '-';
    if (getrandom(&nonce, sizeof nonce, 0) != sizeof nonce)
        nonce = (uint32_t)clock_boot_ms();
    snprintf(w->id, sizeof w->id, "%s.%ld.%08" PRIx32, host, (long)getpid(), nonce);
}

/* "a,b" as "\na\nb\n". */
static int set_terms(struct worker *w) {
    struct buf b;
    w->terms.level_jobs = w->cfg->level_jobs;
    w->terms.reach = "";
    if (!w->cfg->levels)
        return 0;
    buf_init(&b, strlen(w->cfg->levels) + 3);
    buf_addf(&b, "\n%s\n", w->cfg->levels);
    buf_add(&b, "", 1);
    if (b.failed)
        return -ENOMEM;
    size_t n = 0;
    for (const char *p = b.data; *p; p++) { /* "a, b" is "a,b" */
        char c = *p == ',' ? '\n' : *p;
        if (c == ' ' && (b.data[n - 1] == '\n' || p[1] == ',' || p[1] == '\n'))
            continue;
        b.data[n++] = c;
    }
    b.data[n] = '\0';
    w->terms.reach = w->reach = b.data; /* the buffer's memory is ours from here on */
    return 0;
}

int worker_run(const struct worker_options *options) {
    struct worker *w = calloc(1, sizeof *w);
    if (!w)
        return EX_OSERR;
    w->o = options;
    w->cfg = options->config;
    w->backoff_ms = RECONNECT_FIRST_MS;
    queue_init(&w->queue, w->cfg->done_ttl_ms);
    ladder_init(&w->ladder);
    make_id(w);
    set_signals(w);
    int rc = set_terms(w);
    if (rc == 0)
        rc = http_client_new(w->cfg->api, &w->api);
    bool told = false;
    while (rc == 0 && !stopping(w)) {
        int up = connect_all(w);
        if (!told && options->ready)
            options->ready(options->ready_ctx);
        told = true;
        if (up == 0)
            step(w);
        else
            wait_to_reconnect(w);
    }
    if (w->redis)
        watch_bye(w->redis, w->id);
    drop_redis(w);
    drop_db(w);
    http_client_free(w->api);
    ladder_release(&w->ladder);
    free(w->reach);
    free(w);
    return rc < 0 ? EX_OSERR : 0;
}
