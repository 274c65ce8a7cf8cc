/*
 * queue: the jobs in Redis (PROTOCOL.md; its keys are in queue/keys.h, its scripts in queue/lua).
 * Everything that changes a job is one atomic script; the JSON is passed and kept as text, never
 * decoded in Redis.
 */
#ifndef TIERD_JOB_QUEUE_H
#define TIERD_JOB_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "job/job.h"
#include "job/state.h"
#include "net/loop.h"
#include "queue/calls.h"
#include "store/redis.h"

enum {
    QUEUE_MAX_SPARES =
        16, /* levels at once with a copy of one content: more is a ladder gone wild */
    QUEUE_SEEN_BYTES = 40,  /* "2026-11-24 10:00:00.000000" */
    QUEUE_FACT_BYTES = 112, /* what a worker wants to know of a file again */
    QUEUE_SCAN_MAX =
        512, /* candidates in one batch of a reconciling scan: twice what is asked for */
};

/* The scripts, with their hashes; made once per process. */
struct queue {
    struct redis_script scripts[QUEUE_SCRIPTS];
    int64_t done_ttl_ms; /* 0: finished jobs stay */
};

void queue_init(struct queue *q, int64_t done_ttl_ms);

/* ---- the API's side, on the loop ---- */

/* How a post ended. */
enum queue_posted {
    QUEUE_POSTED,       /* the JSON as it now stands is in `text` */
    QUEUE_LOOK_AGAIN,   /* Redis believes the content elsewhere than the row said: look the row up
                           again and post with `text` as acknowledgement */
    QUEUE_COMMIT_FIRST, /* a move is done but not committed: commit, then post again */
    QUEUE_BAD_KEY,      /* a key of the content holds something else than ours: `text` says it */
    QUEUE_NO_JOB, /* the same of what is so large that it should not be asked for again soon */
};

/* Posts that wait for the end of the turn, when they go out as one script call, in which each of
 * them is atomic by itself. The scratch is kept, so that a post allocates nothing. */
struct queue_posts {
    struct queue *queue;
    struct loop *loop;
    struct redis_async *redis;
    struct queue_post *first, **last;
    size_t n;
    struct buf keys, args, json, level, facts;
    struct loop_deferred flush;
};
void queue_posts_init(struct queue_posts *p, struct queue *q, struct loop *loop,
                      struct redis_async *r);
void queue_posts_release(struct queue_posts *p);

/* One post under way, embedded by the caller. */
struct queue_post {
    /* rc as of redis_done_fn; `how` and `text` count with rc 0, text is valid during the call. */
    void (*done)(struct queue_post *post, int rc, enum queue_posted how, struct str_view text);
    /* queue's own */
    struct queue_posts *posts;
    const struct job *job;
    struct queue_post *next;
};

/* Posts: `job` (borrowed until `done`) is as nobody has claimed it: update, or done when it is
 * where it belongs; `seen` is the row's update_time, `ack` what QUEUE_LOOK_AGAIN said. 0: done will
 * be called once, later. -ENOTCONN; -ENOBUFS: too many at once; -EMSGSIZE: its JSON would be longer
 * than JOB_JSON_BYTES. */
int queue_post(struct queue_posts *p, struct queue_post *post, const struct job *job,
               const char *seen, struct str_view ack);

/* What stands about a cid, for a commit. Views are valid while the reply is. */
struct queue_peek {
    bool has_json, has_job;
    struct str_view json, state, src, target, seen, filename, rev;
    struct str_view path; /* of the target, as the move was made under; NULL: not known */
    bool is_foreign; /* the JSON was written by another program, and if it says done, that was not
                        counted yet */
};
int queue_peek(struct queue *q, struct redis_async *r, uint64_t cid, redis_done_fn *done,
               void *ctx);
void queue_peek_reply(const redis_reply *reply, struct queue_peek *out);

/* Notes that the row says `target`: done -> committed, if it is still the job whose `rev` and
 * `seen` queue_peek gave (rev alone begins anew with each job). */
int queue_committed(struct queue *q, struct redis_async *r, uint64_t cid, const char *rev,
                    const char *seen, redis_done_fn *done, void *ctx);

/* Notes that the row says `to`, for another program moved the file there from `from` and wrote
 * `json`, done, which stays: the old place becomes a spare, which a worker looks at; a job of the
 * content ends, also one that failed. `seen`: update_time of the row before. */
int queue_taken(struct queue *q, struct redis_async *r, uint64_t cid, struct str_view json,
                const char *from, const char *to, const char *seen, redis_done_fn *done, void *ctx);

/* The row is not what was moved: the done is taken back and the job is looked at anew. */
int queue_replan(struct queue *q, struct redis_async *r, uint64_t cid, const char *rev,
                 const char *seen, redis_done_fn *done, void *ctx);

/* Puts a cid whose JSON another program wrote into the index. */
int queue_add(struct queue *q, struct redis_async *r, uint64_t cid, redis_done_fn *done, void *ctx);

/* ---- the worker's side, blocking ---- */

/* A claimed job. */
struct lease {
    uint64_t cid;
    uint64_t token;
    enum job_state state;
    char rev[JOB_CID_DIGITS];
    char src[JOB_LEVEL_BYTES];
    char target[JOB_LEVEL_BYTES];
    char seen[QUEUE_SEEN_BYTES];
    uint64_t attempts, crashes, waits;
    char was[QUEUE_FACT_BYTES], made[QUEUE_FACT_BYTES]; /* see queue/keys.h; "": not known */
    char from[JOB_LEVEL_BYTES], to[JOB_LEVEL_BYTES];
    char name[JOB_NAME_BYTES], path[JOB_PATH_BYTES];
    char taken[JOB_LEVEL_BYTES];
    struct progress {
        uint64_t done_bytes, total_bytes, bytes_per_s;
        uint64_t untold_bytes; /* of done_bytes, those since the last renewal */
    } progress;                /* kept by the worker, told by queue_renew and queue_done */
    uint64_t claimed_ms;       /* Redis' clock at the claim */
    struct spare {
        char level[JOB_LEVEL_BYTES];
        uint64_t since_ms; /* Redis' clock when it stopped being the authoritative copy; 0: it never
                              was */
    } spares[QUEUE_MAX_SPARES];
    size_t n_spares;
    char json[JOB_JSON_BYTES]; /* as it stood when it was claimed */
};

/* What a worker may take. */
struct queue_terms {
    int64_t opens_ms;   /* > 0: moves may not start before this many ms have passed */
    int64_t level_jobs; /* most moves into one level at once, of all workers; 0: any number */
    const char *reach;  /* levels that it reaches, each between newlines; "": all */
};

/*
 * Claims up to `most` jobs that are due. How many of `leases` are ours for lease_ms; 0: nothing is
 * due before *wait_ms; or -errno. A job whose worker died is claimed alone: if it was the job that
 * it died of, it takes no others along.
 */
int queue_claim(struct queue *q, struct redis *r, const char *worker_id, int64_t lease_ms,
                const struct queue_terms *terms, struct lease *leases, size_t most,
                int64_t *wait_ms);

/* Rewrites the job as the row has it (foreign JSON, or a row that changed), keeping the claim.
 * `read_json` is what the decision was made on. With `stale` (NULL: none) it does not count: a move
 * that was done, or committed, begins anew, as long as lease->rev is still its revision; the copy
 * at that level is out of date, and a spare that goes whatever it holds. lease->rev becomes the new
 * revision. 0, -ESTALE (not ours any more, or it changed), -EMSGSIZE as of queue_post. */
int queue_begin(struct queue *q, struct redis *r, struct lease *lease, const char *worker_id,
                const struct job *job, const char *seen, struct str_view read_json,
                const char *stale);

/*
 * What is told about claims goes out in batches: each call adds one, queue_batch_run sends them in
 * one write and sets every `*verdict` (which must live until then): 0; -ESTALE: the claim is lost;
 * -ECANCELED: the target changed; or -errno: nobody knows. One claim has one call in a batch.
 * What ends a claim (finish, release, fail) may be told again then: it counts once.
 */
struct queue_batch {
    struct queue *queue;
    const char *worker_id;
    struct redis_batch calls;
    int **verdicts;
    size_t cap;
};
void queue_batch_init(struct queue_batch *b, struct queue *q, const char *worker_id);
void queue_batch_release(struct queue_batch *b);
bool queue_batch_empty(const struct queue_batch *b);

/* `r` may be NULL: then every verdict is -ENOTCONN. */
void queue_batch_run(struct queue_batch *b, struct redis *r);

/* Extends the claim and tells its progress; with `spare`, also notes that a copy may appear at that
 * level. */
void queue_renew(struct queue_batch *b, const struct lease *lease, int64_t lease_ms,
                 const char *spare, int *verdict);

/* The file is at its target, durable, `took_ms` after the claim; lease->was, made, name and path
 * are kept, also when the target changed. */
void queue_done(struct queue_batch *b, const struct lease *lease, int64_t took_ms, int *verdict);

/* Ends a claim: `retired` levels hold no spare copy any more; finishes the job or hands it on. */
void queue_finish(struct queue_batch *b, const struct lease *lease, const char *const *retired,
                  size_t n_retired, int *verdict);

/* What a claim that was given up counts as. A hang is a wait, too: its worker was killed for a
 * level that hangs. It may have left something, as one does that crashed, but was not what he died
 * of. */
enum queue_counts {
    QUEUE_COUNTS_WAIT,
    QUEUE_COUNTS_ATTEMPT,
    QUEUE_COUNTS_NOTHING,
    QUEUE_COUNTS_HANG
};

/* Gives a claim up for `delay_ms`. */
void queue_release(struct queue_batch *b, const struct lease *lease, int64_t delay_ms,
                   enum queue_counts counts, const char *error, int *verdict);

/* As queue_release, for want of room at the target: it waits by itself, and is counted so. */
void queue_no_room(struct queue_batch *b, const struct lease *lease, int64_t delay_ms,
                   const char *error, int *verdict);

/* Ends a job as `status` (conflict or dead) with a sentence. `drop_spare` (may be NULL): a level
 * where we announced a copy but made none. -ECANCELED: a post wants something else by now, nothing
 * was changed; -EALREADY: the same, for another program says to have moved it. */
void queue_fail(struct queue_batch *b, const struct lease *lease, enum job_status status,
                const char *error, const char *drop_spare, int *verdict);

/* One batch of the reconciling scan: jobs that other programs wrote. `*cursor` starts and ends as
 * 0, also when another worker has the turn. The turn of `worker_id` lasts for `turn_ms` from
 * now on, behind the last batch for `rest_ms`, in which nobody scans. */
struct queue_found {
    uint64_t cid;
    bool is_job; /* else: it is in the way of a job and was not reported before */
    enum job_parse why;
};
int queue_scan(struct queue *q, struct redis *r, const char *worker_id, int64_t turn_ms,
               int64_t rest_ms, uint64_t *cursor, struct queue_found found[QUEUE_SCAN_MAX],
               size_t *n_found);

/* Sleeps until something is posted, `wait_ms` passed, or a signal of the caller's mask comes (then
 * -EINTR: the connection must be closed, a reply is still owed). */
int queue_sleep(struct redis *r, int64_t wait_ms, const void *sigmask);

/* ---- what `tierd check` mends ---- */

/* Whether something is under way with the cid (a job that ended as dead or conflict is not), or
 * -errno. */
enum { QUEUE_IDLE, QUEUE_HELD, QUEUE_WAITS /* and nobody has its claim */ };
int queue_busy(struct redis *r, uint64_t cid);

/* Calls `each` with JSONs that other programs set to done, and that nobody counted, a batch at a
 * time. `*cursor` starts and ends as 0. 0 or -errno. */
int queue_dones(struct queue *q, struct redis *r, uint64_t *cursor,
                void (*each)(void *ctx, uint64_t cid, struct str_view json), void *ctx);

/* Has a worker look at a content, whatever its JSON says. 0 or -errno. */
int queue_look(struct queue *q, struct redis *r, uint64_t cid);

/* Takes and gives back the claim of a cid without a job: 1: taken, 0: somebody has it, or -errno.
 */
int queue_lock(struct redis *r, uint64_t cid, const char *holder, int64_t lease_ms);
int queue_unlock(struct queue *q, struct redis *r, uint64_t cid, const char *holder);

/* Hands a superfluous copy at `spare` to the workers, who judge and retire it; the content is at
 * `level`. 1: handed over, 0: a job is under way that will look at its end, or -errno. */
int queue_spare(struct queue *q, struct redis *r, uint64_t cid, const char *level,
                const char *spare);

/* ---- gates: what keeps jobs from starting ---- */

/* Keeps jobs from starting: those into a level, or all. For `for_ms`, or until it is resumed (0).
 * What was paused without an end stays so. 0 or -errno. */
int queue_pause(struct queue *q, struct redis *r, const char *gate, int64_t for_ms);

/* Keeps jobs from starting into a level that is full, which says `why`. 0 or -errno. */
int queue_full(struct queue *q, struct redis *r, const char *level, int64_t for_ms,
               const char *why);

/* Opens a gate: how many jobs waited behind it, or -errno. */
int64_t queue_resume(struct queue *q, struct redis *r, const char *gate);

/* ---- what is remembered of levels ---- */

/* Calls `each` with every level whose marker was seen before, and the marker's id. 0 or -errno. */
int queue_level_ids(struct redis *r,
                    void (*each)(void *ctx, struct str_view level, struct str_view id), void *ctx);

/* Remembers the id of a level's marker; `replace`: also when another one is known. 0 or -errno. */
int queue_level_know(struct redis *r, const char *level, const char *id, bool replace);

/* Lets another worker look at the queue: a sleeper that was woken cannot take the job. */
int queue_wake(struct redis *r);

#endif
