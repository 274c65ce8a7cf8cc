/*
 * db: the only module that knows MariaDB Connector/C. Two faces over one URL: a blocking connection
 * for the worker, and a small pool of non-blocking ones on the API's loop.
 *
 * db_url_parse -> db_open -> db_query -> db_row... -> db_result_free -> db_close          (worker)
 * db_url_parse -> db_pool_new -> db_pool_query... -> db_pool_free                         (API)
 *
 * Every connection sets the modes of its session before anything else, so that a statement means
 * the same under every configuration of the server, and every statement is committed by itself.
 *
 * Statements are text; the caller composes them from numbers, db_add_text and db_add_bytes, which
 * write hexadecimal literals, so that nothing in a value can be taken for SQL.
 */
#ifndef TIERD_STORE_DB_H
#define TIERD_STORE_DB_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/str.h"
#include "net/loop.h"
#include "net/resolve.h"
#include "store/fault.h"
#include "store/server_url.h"

enum {
    DB_SQL_BYTES = 64 * 1024, /* the longest statement: an IN list of 128 cids is 3 KB */
    DB_ERROR_BYTES = 400,     /* what a server says: 512 at most, of which nobody reads more */
};

/* Appends _utf8mb4 X'..': characters, which become those of the column they are put into. */
void db_add_text(struct buf *sql, struct str_view v);

/* Appends X'..': the bytes of `v`. */
void db_add_bytes(struct buf *sql, struct str_view v);

/* What a statement gave: rows and how many rows it changed. */
struct db_result;
/* The next row as `n` views (a NULL column has ptr NULL), valid until the result is freed; false
 * after the last one. */
bool db_row(struct db_result *res, struct str_view *columns, size_t n);
uint64_t db_changed(const struct db_result *res);

/* ---- blocking ---- */

struct db;
/* Tries each address of its host; `names` as of resolve_wait. 0, or -ECONNREFUSED (or another
 * -errno of a lost server), -EACCES (refused by the server), and why in `fault`. Where none of them
 * takes writes, one that answers is good enough for who reads: 0, and SERVER_NO_WRITES. */
int db_open(const struct db_url *url, struct name_lookup *names, int timeout_ms, struct db **out,
            struct server_fault *fault);
/* Whether the server takes writes of ours: 0, -EROFS, or -ENOTCONN; why in `fault`. */
int db_takes_writes(struct db *db, struct server_fault *fault);
void db_close(struct db *db);
/* 0; -ENOTCONN: connection lost, close it; -EAGAIN: not now (a deadlock, a lock, a server that is
 * read-only or full), try again; -ENOKEY: it names an index that the table has not (1176); -EILSEQ:
 * a text is none, or has a character that the column it is compared with cannot hold; -EPROTO: the
 * server refuses the statement, and will until somebody changes something (a trigger, a constraint,
 * a right, a name). */
int db_query(struct db *db, struct str_view sql, struct db_result **out);
/* What the server said to the last statement that failed, in one line; valid until the next. */
const char *db_error(const struct db *db);
void db_result_free(struct db_result *res);

/* ---- on the loop ---- */

struct db_pool;

/* rc as of db_query (and -ETIMEDOUT); `res` is NULL when rc < 0 and freed after the call returns.
 */
typedef void db_done_fn(void *ctx, int rc, struct db_result *res);

/* `size` connections that open, and re-open with backoff, by themselves. `settled` is called once,
 * when the first attempt of one of them ended either way. NULL when out of memory. */
struct db_pool *db_pool_new(struct loop *loop, const struct db_url *url, size_t size,
                            void (*settled)(void *ctx), void *ctx);
void db_pool_free(struct db_pool *pool);
bool db_pool_up(const struct db_pool *pool);

/* Why it cannot be used, or only be read from: then its connections are made anew one after the
 * other, the name looked up each time, until a server takes writes. */
const struct server_fault *db_pool_fault(const struct db_pool *pool);

/* Asks the server whether it would take a write, and has it noted in the fault. The caller owns it
 * until `done`, whose rc is 0 when the server answered, whatever it said. */
struct db_check {
    db_done_fn *done;
    void *ctx;
    struct db_pool *pool; /* db_pool_check's own */
};
/* 0, -ENOTCONN, -ENOBUFS as of db_pool_query. */
int db_pool_check(struct db_pool *pool, struct db_check *check);
/* What the server said to the last statement that failed, or why the last connection went, in one
 * line; of the statement that a db_done_fn is called for while it is. */
const char *db_pool_error(const struct db_pool *pool);

/* Has every connection that was lost and is made again counted in *reconnects, which outlives the
 * pool. */
void db_pool_count(struct db_pool *pool, uint64_t *reconnects);

/* Runs `sql` (copied) on the next free connection. 0: `done` will be called once, after this call
 * returned; -ENOTCONN: no connection is up; -ENOBUFS: too many are waiting already. */
int db_pool_query(struct db_pool *pool, struct str_view sql, db_done_fn *done, void *ctx);

#endif
