/*
 * redis: the only module that knows hiredis. Two faces over one URL: a blocking connection for the
 * straight-line worker, and an asynchronous one on the API's loop.
 *
 * redis_url_parse -> redis_open -> redis_call... -> redis_close            (worker)
 * redis_url_parse -> redis_async_new -> redis_async_call... -> _free       (API)
 *
 * Replies are borrowed views: of the blocking face until the next call or redis_reply_free, of the
 * asynchronous one until the callback returns.
 */
#ifndef TIERD_STORE_REDIS_H
#define TIERD_STORE_REDIS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/str.h"
#include "net/loop.h"
#include "net/resolve.h"
#include "store/fault.h"
#include "store/server_url.h"

struct redisReply; /* hiredis' own, opaque outside redis.c */
typedef struct redisReply redis_reply;

enum {
    REDIS_MAX_ARGS = 24, /* the longest script call of queue, with room */
    REDIS_WORDS_BYTES = 256,
};

/* A Lua script; its sha is computed once by redis_script_init. */
struct redis_script {
    const char *body;
    char sha[41];
};
void redis_script_init(struct redis_script *s, const char *body);

/* ---- replies ---- */

/* True for an error reply; its text is redis_text. */
bool redis_is_error(const redis_reply *r);
bool redis_is_nil(const redis_reply *r);
/* Text of a string, status or error reply; empty for others. */
struct str_view redis_text(const redis_reply *r);
/* What an error's text means, as of redis_call: -EAGAIN or -EPROTO. */
int redis_error_rc(struct str_view text);
/* Value of an integer reply; 0 for others. */
int64_t redis_int(const redis_reply *r);
/* Elements of an array reply; 0 for others. */
size_t redis_len(const redis_reply *r);
const redis_reply *redis_at(const redis_reply *r, size_t i);

/* ---- blocking ---- */

struct redis;

/* Connects to one of the host's addresses (each is tried; `names` as of resolve_wait),
 * authenticates and selects the database. `timeout_ms` bounds that for one address, and every later
 * call. 0, or -errno (-ECONNREFUSED, -ETIMEDOUT, -EACCES: refused by the server) and why in
 * `fault`. Where none of them takes writes, one that answers is good enough for who reads: 0, and
 * SERVER_NO_WRITES. */
int redis_open(const struct redis_url *url, struct name_lookup *names, int timeout_ms,
               struct redis **out, struct server_fault *fault);

/* Whether the server would take a write: it is asked for one that changes nothing. 0, -EROFS and
 * why in `fault`, or another -errno as of redis_call. */
int redis_takes_writes(struct redis *r, struct server_fault *fault);
void redis_close(struct redis *r);

/* One command. 0 with *reply (free it), or -errno when the connection is lost: close it. Error
 * replies of the server are mapped: -EAGAIN for LOADING, BUSY, READONLY, OOM, TRYAGAIN and the like
 * (try again later), -EPROTO for the rest. */
int redis_call(struct redis *r, const struct str_view *args, size_t n, redis_reply **reply);

/* The server's own words for the last error reply of it, of REDIS_WORDS_BYTES; "" when there was
 * none. */
const char *redis_words(const struct redis *r);

/* Runs a script by its hash, sending the body when the server does not have it. */
int redis_eval(struct redis *r, const struct redis_script *s, const struct str_view *keys,
               size_t nkeys, const struct str_view *args, size_t nargs, redis_reply **reply);

void redis_reply_free(redis_reply *reply);

/* Script calls that go out in one write and are answered together. */
struct redis_batch {
    struct buf commands, retry;
    struct redis_batch_call {
        const struct redis_script *script;
        size_t at, args_at, end; /* in `commands`: all of it, what stands behind the script */
        size_t n_args;           /* there */
        bool unknown;            /* the server does not have the script: it is sent whole */
    } * calls;
    size_t n, cap;
};
void redis_batch_init(struct redis_batch *b);
void redis_batch_clear(struct redis_batch *b); /* forgets the calls, keeps the memory */
void redis_batch_release(struct redis_batch *b);

/* Adds a call on one key (all copied); its number in the batch, or -ENOMEM. */
int redis_batch_eval(struct redis_batch *b, const struct redis_script *s, struct str_view key,
                     const struct str_view *args, size_t nargs);

/* Runs what was added and forgets it. Each call's number, rc and reply, as of redis_call, come to
 * `done` once, whatever happens; replies are freed after it. */
void redis_batch_run(struct redis *r, struct redis_batch *b,
                     void (*done)(void *ctx, size_t i, int rc, const redis_reply *reply),
                     void *ctx);

/* Sends a blocking command (BLPOP) and returns the descriptor to wait on; then redis_finish takes
 * the reply. The caller waits with ppoll(2), so that a signal ends the wait. */
int redis_start(struct redis *r, const struct str_view *args, size_t n, int *fd);
int redis_finish(struct redis *r, redis_reply **reply);

/* False once a call has failed on the way, or while a reply is owed: what is read next would answer
 * another question, so such a connection can only be closed. So can one whose server takes no
 * writes any more: another may stand behind its name. */
bool redis_usable(const struct redis *r);

/* ---- asynchronous ---- */

struct redis_async;

/* rc as of redis_call, and -ENOTCONN when the connection is down; reply is NULL when rc < 0. */
typedef void redis_done_fn(void *ctx, int rc, const redis_reply *reply);

/* Begins to connect, and from then on re-connects by itself with backoff. `scripts` are loaded
 * after each connect. NULL when out of memory. `settled` (may be NULL) is called once, when the
 * first attempt ended either way. */
struct redis_async *redis_async_new(struct loop *loop, const struct redis_url *url,
                                    const struct redis_script *scripts, size_t n_scripts,
                                    void (*settled)(void *ctx), void *ctx);

/* Calls back what is pending with -ENOTCONN, and frees. */
void redis_async_free(struct redis_async *r);

bool redis_async_up(const struct redis_async *r);

/* Why it cannot be used, or only be read from: then it is up, and connected anew twice a second,
 * its name looked up each time, until a server takes writes. */
const struct server_fault *redis_async_fault(const struct redis_async *r);

/* Asks the server whether it would take a write, and has it noted in the fault. `done` as of
 * redis_async_call. */
int redis_async_check(struct redis_async *r, redis_done_fn *done, void *ctx);
/* The server's own words: for the last error reply to a call (in its callback: to that call), and
 * for the loading of scripts that it refuses on each connection. "" when there was none. */
const char *redis_async_words(const struct redis_async *r);
const char *redis_async_refusal(const struct redis_async *r);

/* Has every connection that was lost and is made again counted in *reconnects, which outlives `r`.
 */
void redis_async_count(struct redis_async *r, uint64_t *reconnects);

/* Queues a command; what one turn queues goes out in one write. 0: `done` will be called once,
 * after this call returned. -ENOTCONN: the connection is down. */
int redis_async_call(struct redis_async *r, const struct str_view *args, size_t n,
                     redis_done_fn *done, void *ctx);

/* The same for a script. One that the server does not know (any more) is asked once more, behind
 * all scripts, which are loaded once for all calls that wait. */
int redis_async_eval(struct redis_async *r, const struct redis_script *s,
                     const struct str_view *keys, size_t nkeys, const struct str_view *args,
                     size_t nargs, redis_done_fn *done, void *ctx);

/* For a script with many arguments, which were composed by redis_add_arg one after the other:
 * `nkeys` in `keys`, `nargs` in `args` (both copied). -EAGAIN when the server does not know it; it
 * is loaded by the next attempt. */
void redis_add_arg(struct buf *b, struct str_view arg);
int redis_async_eval_composed(struct redis_async *r, const struct redis_script *s, size_t nkeys,
                              const struct buf *keys, size_t nargs, const struct buf *args,
                              redis_done_fn *done, void *ctx);

#endif
