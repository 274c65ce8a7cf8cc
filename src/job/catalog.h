/*
 * catalog: all SQL of tierd. The levels, the rows of `contents`, and the one UPDATE that commits a
 * move. The API's side batches: all look-ups that arrive while one is under way go out as one
 * SELECT ... IN (...). The worker's side is blocking.
 */
#ifndef TIERD_JOB_CATALOG_H
#define TIERD_JOB_CATALOG_H

#include "job/job.h"
#include "job/ladder.h"
#include "job/queue.h"
#include "store/db.h"

/* A row of `contents`, borrowed by callbacks, owned by value in the worker. */
struct content {
    uint64_t cid;
    char level[JOB_LEVEL_BYTES];
    char filename[JOB_NAME_BYTES];
    char seen[QUEUE_SEEN_BYTES]; /* update_time as text, "" for NULL */
    int64_t age_ms;              /* since then, by the database's clock; -1: not known */
};

/* ---- on the loop ---- */

struct catalog;

/* A catalogue over `pool` (borrowed). It re-reads the levels every few seconds. */
struct catalog *catalog_new(struct loop *loop, struct db_pool *pool);
void catalog_free(struct catalog *c);

/* The levels as last read; empty until then. `loaded` is called after the first reading. */
const struct ladder *catalog_ladder(const struct catalog *c);
void catalog_on_loaded(struct catalog *c, void (*loaded)(void *ctx), void *ctx);

/* Has `known` called when there are levels, and whenever they are not those that there were. */
void catalog_on_known(struct catalog *c, void (*known)(void *ctx), void *ctx);

/* How many files each level of the ladder has, as counted last; NULL until that is known. Asking
 * has them counted again when it is time. */
const uint64_t *catalog_files(struct catalog *c);

/* Has `seen` called with the number of look-ups of every SELECT. */
void catalog_on_batch(struct catalog *c, void (*seen)(void *ctx, size_t n), void *ctx);

/* One waiter for a row, embedded by the caller. */
struct lookup {
    uint64_t cid;
    /* rc 0: row is valid during the call, or NULL when there is none; -EBADMSG: a row is out of
     * bounds, it may be this one; rc < 0 as of db_pool_query. */
    void (*done)(struct lookup *l, int rc, const struct content *row);
    struct lookup *next;
};

/* What the database said to what failed, as of db_pool_error; while a `done` is called with rc < 0
 * of a server that refuses (-EPROTO, -EILSEQ, -EAGAIN), or is away. */
const char *catalog_error(const struct catalog *c);

/* 0: done will be called once, later. -ENOTCONN, -ENOBUFS. */
int catalog_lookup(struct catalog *c, struct lookup *l);

/* One wanted commit, embedded by the caller: the row of `cid`, if it still has this file name,
 * level (`src`) and update_time (`seen`), byte for byte, is to say `target`, with a later
 * update_time; and only if that level still has the path that the file was put under (empty: it
 * does not matter). The views are borrowed until `done`. */
struct commit {
    uint64_t cid;
    struct str_view filename, src, target, seen, path;
    /* rc 0 and `changed`: the row was as expected and now says target. rc 0 alone: this row may
     * not have been as expected, or another one of the same statement was not; look it up. rc < 0
     * as of db_pool_query. */
    void (*done)(struct commit *commit, int rc, bool changed);
    struct commit *next;
    bool alone; /* catalog's own: what it was sent with failed */
};

/* 0: done will be called once, later. -ENOTCONN, -ENOBUFS. */
int catalog_commit(struct catalog *c, struct commit *commit);

/* ---- blocking ---- */

/* 1: found, 0: no such row, or -errno as of db_query. */
int catalog_content(struct db *db, uint64_t cid, struct content *out);

/* Calls `each` with the row of every one of `n` cids that has one, in any order. 0 or -errno. */
int catalog_contents(struct db *db, const uint64_t *cids, size_t n,
                     void (*each)(void *ctx, const struct content *row), void *ctx);

/* The same, with the path of the row's level (NULL: there is no such level), of one moment. */
typedef void catalog_place_fn(void *ctx, const struct content *row, struct str_view path);
int catalog_places(struct db *db, const uint64_t *cids, size_t n, catalog_place_fn *each,
                   void *ctx);

/* Says (one sentence each) what the tables cannot hold: a level whose name does not go into the
 * column of contents (`misfit`: no move into it can be committed), and names that the collation of
 * their column takes for the same. 0 or -errno. */
typedef void catalog_say_fn(void *ctx, bool misfit, const char *level, const char *why);
int catalog_fits(struct db *db, catalog_say_fn *say, void *ctx);

/* Counts the files of each level of the ladder. 0 or -errno as of db_query. */
int catalog_count_files(struct db *db, const struct ladder *ladder, uint64_t *files);

/* Replaces the levels in *out. 0, or -errno; -EINVAL: the table breaks the ladder's rules. */
int catalog_levels(struct db *db, struct ladder *out);

/* Calls `each` with up to `most` rows whose cid is greater than `after`, in the order of their
 * cids. How many there were, or -errno. `each` may use `db` itself. */
int catalog_page(struct db *db, uint64_t after, size_t most,
                 void (*each)(void *ctx, const struct content *row), void *ctx);

/* A row that has the file name `name`, of another cid than `but` (0: of any): 1: found, 0: there is
 * none, or -errno. */
int catalog_by_name(struct db *db, struct str_view name, uint64_t but, struct content *out);

/* The conditional UPDATE of catalog_commit: 1: changed, 0: the row is not as it was seen, or
 * -errno. */
int catalog_correct(struct db *db, const struct content *seen, const char *level);

#endif
