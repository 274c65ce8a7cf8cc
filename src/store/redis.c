#include "store/redis.h"

#include <assert.h>
#include <errno.h>
#include <hiredis/async.h>
#include <hiredis/hiredis.h>
#include <hiredis/hiredis_ssl.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/time.h>

#include "base/log.h"

enum {
    REACH_MS = 500,  /* to connect: within a second of a host's return it is tried again */
    GREET_MS = 2000, /* to be let in: a server that takes longer is as good as away */
    BACKOFF_FIRST_MS = 50,
    BACKOFF_MAX_MS = 250,             /* so that a server that came back is used within a second */
    CALL_TIMEOUT_MS = 900,            /* a server that hangs: /health must answer within 1 s */
    COMMAND_BYTES = 16 * 1024 * 1024, /* of one composed command: more than its composers allow */
};

/* ---- scripts ---- */

void redis_script_init(struct redis_script *s, const char *body) {
    unsigned char digest[SHA_DIGEST_LENGTH];
    SHA1((const unsigned char *)body, strlen(body), digest);
    s->body = body;
    for (size_t i = 0; i < sizeof digest; i++)
        snprintf(s->sha + 2 * i, 3, "%02x", digest[i]);
}

/* ---- replies ---- */

bool redis_is_error(const redis_reply *r) {
    return r && r->type == REDIS_REPLY_ERROR;
}

bool redis_is_nil(const redis_reply *r) {
    return !r || r->type == REDIS_REPLY_NIL;
}

struct str_view redis_text(const redis_reply *r) {
    if (!r || !r->str)
        return (struct str_view){"", 0};
    return (struct str_view){r->str, r->len};
}

int64_t redis_int(const redis_reply *r) {
    return r && r->type == REDIS_REPLY_INTEGER ? r->integer : 0;
}

size_t redis_len(const redis_reply *r) {
    return r && r->type == REDIS_REPLY_ARRAY ? r->elements : 0;
}

const redis_reply *redis_at(const redis_reply *r, size_t i) {
    return i < redis_len(r) ? r->element[i] : NULL;
}

/* Whether the server's error passes by itself: it is starting, full, demoted or busy. */
int redis_error_rc(struct str_view text) {
    static const char *const passing[] = {"LOADING",     "BUSY",       "READONLY",   "OOM",
                                          "TRYAGAIN",    "MASTERDOWN", "NOREPLICAS", "MISCONF",
                                          "CLUSTERDOWN", "NOSCRIPT",   "-OOM"};
    for (size_t i = 0; i < sizeof passing / sizeof *passing; i++) {
        size_t n = strlen(passing[i]);
        if (text.len >= n && memcmp(text.ptr, passing[i], n) == 0)
            return -EAGAIN;
    }
    return memmem(text.ptr, text.len, "-OOM ", 5) ? -EAGAIN : -EPROTO;
}

static int error_rc(const redis_reply *r) {
    return redis_is_error(r) ? redis_error_rc(redis_text(r)) : 0;
}

void redis_reply_free(redis_reply *reply) {
    if (reply)
        freeReplyObject(reply);
}

/* ---- blocking ---- */

struct redis {
    redisContext *c;
    bool owed; /* a reply has not been read */
};

static int context_errno(const redisContext *c) {
    if (c->err == REDIS_ERR_IO && errno)
        return errno == EAGAIN ? -ETIMEDOUT : -errno;
    if (c->err == REDIS_ERR_TIMEOUT)
        return -ETIMEDOUT;
    if (c->err == REDIS_ERR_OOM)
        return -ENOMEM;
    return c->err == REDIS_ERR_EOF ? -ECONNRESET : -EPROTO;
}

/* TLS 1.2 or newer; the server must show a certificate for the URL's host from an authority that
 * the system trusts (SSL_CERT_FILE and SSL_CERT_DIR name others). hiredis alone would check no
 * name. */
static int start_tls(redisContext *c, const struct redis_url *url) {
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    SSL *ssl = NULL;
    if (ctx && SSL_CTX_set_default_verify_paths(ctx) == 1 &&
        SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) == 1) {
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
        ssl = SSL_new(ctx);
    }
    SSL_CTX_free(ctx); /* the connection keeps it */
    if (!ssl)
        return -ENOMEM;
    if (SSL_set_tlsext_host_name(ssl, url->host) != 1 || SSL_set1_host(ssl, url->host) != 1) {
        SSL_free(ssl);
        return -EINVAL;
    }
    if (redisInitiateSSL(c, ssl) != REDIS_OK) {
        SSL_free(ssl);
        return -EPROTO;
    }
    return 0;
}

/* AUTH and SELECT as the URL asks; returns how many commands were put into `args`. */
static size_t greeting(const struct redis_url *url, char db[16], struct str_view args[2][3],
                       size_t lens[2]) {
    size_t n = 0;
    if (url->password[0]) {
        size_t k = 0;
        args[n][k++] = str_view("AUTH");
        if (url->user[0])
            args[n][k++] = str_view(url->user);
        args[n][k++] = str_view(url->password);
        lens[n++] = k;
    }
    if (url->db) {
        snprintf(db, 16, "%d", url->db);
        args[n][0] = str_view("SELECT");
        args[n][1] = str_view(db);
        lens[n++] = 2;
    }
    return n;
}

static int greet(struct redis *r, const struct redis_url *url) {
    char db[16];
    struct str_view args[2][3] = {{{NULL, 0}}};
    size_t lens[2] = {0};
    size_t n = greeting(url, db, args, lens);
    for (size_t i = 0; i < n; i++) {
        redis_reply *reply = NULL;
        int rc = redis_call(r, args[i], lens[i], &reply);
        if (rc == -EPROTO)
            return -EACCES;
        if (rc < 0)
            return rc;
        redis_reply_free(reply);
    }
    return 0;
}

static struct timeval to_timeval(int ms) {
    return (struct timeval){ms / 1000, (ms % 1000) * 1000};
}

int redis_open(const struct redis_url *url, int timeout_ms, struct redis **out) {
    struct timeval tv = to_timeval(timeout_ms);
    struct redis *r = calloc(1, sizeof *r);
    if (!r)
        return -ENOMEM;
    errno = 0;
    r->c = url->port ? redisConnectWithTimeout(url->host, url->port, tv)
                     : redisConnectUnixWithTimeout(url->host, tv);
    int rc = !r->c ? -ENOMEM : r->c->err ? context_errno(r->c) : 0;
    if (rc == 0 && redisSetTimeout(r->c, tv) != REDIS_OK)
        rc = -EPROTO;
    if (rc == 0 && url->tls)
        rc = start_tls(r->c, url);
    if (rc == 0)
        rc = greet(r, url);
    if (rc < 0) {
        redis_close(r);
        return rc;
    }
    *out = r;
    return 0;
}

void redis_close(struct redis *r) {
    if (!r)
        return;
    if (r->c)
        redisFree(r->c);
    free(r);
}

static void to_argv(const struct str_view *args, size_t n, const char **argv, size_t *lens) {
    assert(n <= REDIS_MAX_ARGS);
    for (size_t i = 0; i < n; i++) {
        argv[i] = args[i].ptr;
        lens[i] = args[i].len;
    }
}

int redis_start(struct redis *r, const struct str_view *args, size_t n, int *fd) {
    const char *argv[REDIS_MAX_ARGS];
    size_t lens[REDIS_MAX_ARGS];
    to_argv(args, n, argv, lens);
    if (redisAppendCommandArgv(r->c, (int)n, argv, lens) != REDIS_OK)
        return context_errno(r->c);
    int done = 0;
    while (!done)
        if (redisBufferWrite(r->c, &done) != REDIS_OK)
            return context_errno(r->c);
    *fd = r->c->fd;
    r->owed = true;
    return 0;
}

bool redis_usable(const struct redis *r) {
    return r->c->err == 0 && !r->owed;
}

int redis_finish(struct redis *r, redis_reply **reply) {
    void *raw = NULL;
    errno = 0;
    if (redisGetReply(r->c, &raw) != REDIS_OK)
        return context_errno(r->c);
    r->owed = false;
    int rc = error_rc(raw);
    if (rc < 0) {
        log_event(LOG_DEBUG, "redis error", LOG_STR("error", ((redis_reply *)raw)->str));
        freeReplyObject(raw);
        return rc;
    }
    *reply = raw;
    return 0;
}

int redis_call(struct redis *r, const struct str_view *args, size_t n, redis_reply **reply) {
    int fd;
    int rc = redis_start(r, args, n, &fd);
    return rc < 0 ? rc : redis_finish(r, reply);
}

static size_t eval_args(const struct redis_script *s, bool by_sha, const struct str_view *keys,
                        size_t nkeys, const struct str_view *args, size_t nargs,
                        char nkeys_text[24], struct str_view *all) {
    assert(3 + nkeys + nargs <= REDIS_MAX_ARGS);
    snprintf(nkeys_text, 24, "%zu", nkeys);
    all[0] = str_view(by_sha ? "EVALSHA" : "EVAL");
    all[1] = str_view(by_sha ? s->sha : s->body);
    all[2] = str_view(nkeys_text);
    if (nkeys)
        memcpy(all + 3, keys, nkeys * sizeof *keys);
    if (nargs)
        memcpy(all + 3 + nkeys, args, nargs * sizeof *args);
    return 3 + nkeys + nargs;
}

int redis_eval(struct redis *r, const struct redis_script *s, const struct str_view *keys,
               size_t nkeys, const struct str_view *args, size_t nargs, redis_reply **reply) {
    struct str_view all[REDIS_MAX_ARGS];
    char text[24];
    size_t n = eval_args(s, true, keys, nkeys, args, nargs, text, all);
    int rc = redis_call(r, all, n, reply);
    if (rc != -EAGAIN)
        return rc;
    n = eval_args(s, false, keys, nkeys, args, nargs, text, all); /* NOSCRIPT: send it whole */
    return redis_call(r, all, n, reply);
}

/* ---- composed calls ---- */

void redis_add_arg(struct buf *b, struct str_view arg) {
    buf_add_str(b, "$");
    buf_add_u64(b, arg.len);
    buf_add_str(b, "\r\n");
    buf_add(b, arg.ptr, arg.len);
    buf_add_str(b, "\r\n");
}

/* "*<n> EVALSHA <sha> <nkeys>", or EVAL and the script itself; keys and arguments follow. */
static void add_eval(struct buf *b, const struct redis_script *s, bool whole, size_t nkeys,
                     size_t nargs) {
    char count[24];
    snprintf(count, sizeof count, "%zu", nkeys);
    buf_add(b, "*", 1);
    buf_add_u64(b, 3 + nkeys + nargs);
    buf_add(b, "\r\n", 2);
    redis_add_arg(b, str_view(whole ? "EVAL" : "EVALSHA"));
    redis_add_arg(b, str_view(whole ? s->body : s->sha));
    redis_add_arg(b, str_view(count));
}

/* ---- blocking: batches ---- */

void redis_batch_init(struct redis_batch *b) {
    *b = (struct redis_batch){0};
    buf_init(&b->commands, COMMAND_BYTES);
    buf_init(&b->retry, COMMAND_BYTES);
}

void redis_batch_clear(struct redis_batch *b) {
    buf_clear(&b->commands);
    buf_clear(&b->retry);
    b->n = 0;
}

void redis_batch_release(struct redis_batch *b) {
    buf_release(&b->commands);
    buf_release(&b->retry);
    free(b->calls);
    b->calls = NULL;
    b->n = b->cap = 0;
}

int redis_batch_eval(struct redis_batch *b, const struct redis_script *s, struct str_view key,
                     const struct str_view *args, size_t nargs) {
    struct redis_batch_call call = {.script = s, .at = b->commands.len, .n_args = nargs};
    if (b->n == b->cap) {
        size_t cap = b->cap ? 2 * b->cap : 16;
        struct redis_batch_call *more = realloc(b->calls, cap * sizeof *more);
        if (!more)
            return -ENOMEM;
        b->calls = more;
        b->cap = cap;
    }
    add_eval(&b->commands, s, false, 1, nargs);
    call.args_at = b->commands.len;
    redis_add_arg(&b->commands, key);
    for (size_t i = 0; i < nargs; i++)
        redis_add_arg(&b->commands, args[i]);
    if (b->commands.failed) { /* the calls before it stay as they are */
        b->commands.len = call.at;
        b->commands.failed = false;
        return -ENOMEM;
    }
    call.end = b->commands.len;
    b->calls[b->n] = call;
    return (int)b->n++;
}

static int append(struct redis *r, const char *command, size_t len) {
    return redisAppendFormattedCommand(r->c, command, len) == REDIS_OK ? 0 : -ENOMEM;
}

/* Reads the reply of a call that was sent: 0, or what went wrong on the way. */
static int take_reply(struct redis *r, redis_reply **reply) {
    void *raw = NULL;
    errno = 0;
    if (redisGetReply(r->c, &raw) != REDIS_OK)
        return context_errno(r->c);
    *reply = raw;
    return 0;
}

static bool is_unknown_script(const redis_reply *reply) {
    struct str_view text = redis_text(reply);
    return redis_is_error(reply) && text.len >= 8 && memcmp(text.ptr, "NOSCRIPT", 8) == 0;
}

/* One round: sends the calls that are `unknown` (with their scripts), or all; hands over what is
 * answered. How many turned out to be unknown, or -errno: then no reply more can be had. */
static int batch_round(struct redis *r, struct redis_batch *b, bool whole, size_t *next,
                       void (*done)(void *ctx, size_t i, int rc, const redis_reply *reply),
                       void *ctx) {
    int unknown = 0, rc = 0;
    struct buf *out = whole ? &b->retry : &b->commands;
    *next = 0;
    for (size_t i = 0; whole && i < b->n; i++) {
        const struct redis_batch_call *c = &b->calls[i];
        if (!c->unknown)
            continue;
        add_eval(out, c->script, true, 1, c->n_args);
        buf_add(out, b->commands.data + c->args_at, c->end - c->args_at);
    }
    rc = out->failed ? -ENOMEM : append(r, out->data, out->len);
    for (; rc == 0 && *next < b->n; (*next)++) {
        struct redis_batch_call *c = &b->calls[*next];
        redis_reply *reply = NULL;
        if (c->unknown != whole)
            continue;
        rc = take_reply(r, &reply);
        if (rc < 0)
            return rc;
        c->unknown = !whole && is_unknown_script(reply);
        unknown += c->unknown;
        if (!c->unknown) {
            int error = error_rc(reply);
            done(ctx, *next, error, error < 0 ? NULL : reply);
        }
        redis_reply_free(reply);
    }
    return rc < 0 ? rc : unknown;
}

void redis_batch_run(struct redis *r, struct redis_batch *b,
                     void (*done)(void *ctx, size_t i, int rc, const redis_reply *reply),
                     void *ctx) {
    size_t next = 0;
    bool whole = false;
    int rc = b->n ? batch_round(r, b, false, &next, done, ctx) : 0;
    if (rc > 0) {
        whole = true;
        rc = batch_round(r, b, true, &next, done, ctx);
    }
    for (size_t i = 0; rc < 0 && i < b->n; i++) /* those that were not answered */
        if (whole ? b->calls[i].unknown && i >= next : b->calls[i].unknown || i >= next)
            done(ctx, i, rc, NULL);
    redis_batch_clear(b);
}

/* ---- asynchronous ---- */

struct pending {
    struct redis_async *owner;
    redis_done_fn *done;
    void *ctx;
    char *command; /* as it was sent, when it is to be sent again should its script be unknown */
    size_t command_len;
    int64_t deadline_ms;
    struct pending *next, *prev;
};

struct redis_async {
    struct loop *loop;
    struct redis_url url;
    const struct redis_script *scripts;
    size_t n_scripts;
    redisAsyncContext *ac;
    struct loop_io io;
    uint32_t wanted;
    struct loop_deferred flush;
    struct loop_timer timer; /* re-connect while down, the oldest call's deadline while up */
    int64_t backoff_ms;
    bool up, flushing, freeing;
    bool late;            /* closed by us, for want of an answer */
    bool deaf;            /* what it says cannot be watched for */
    uint64_t *reconnects; /* NULL: nobody counts */
    bool had;             /* a connection before */
    struct pending sent;  /* ring of calls in flight, oldest first */
    struct pending *spare;
    struct buf command; /* scratch of redis_async_eval_composed */
    void (*settled)(void *ctx);
    void *settled_ctx;
};

static void settle(struct redis_async *r) {
    void (*settled)(void *) = r->settled;
    r->settled = NULL;
    if (settled)
        settled(r->settled_ctx);
}

/* hiredis has what it closes taken out before (`cleanup`). A connection that cannot be watched is
 * given up by the timer, for hiredis must not lose it in here. */
static void update_io(struct redis_async *r, uint32_t wanted) {
    r->wanted = wanted;
    if (loop_io_set(r->loop, &r->io, wanted) == 0)
        return;
    r->deaf = true;
    loop_timer_set(r->loop, &r->timer, loop_now_ms(r->loop));
}

static void ev_add_read(void *p) {
    struct redis_async *r = p;
    update_io(r, r->wanted | EPOLLIN);
}

static void ev_del_read(void *p) {
    struct redis_async *r = p;
    update_io(r, r->wanted & ~(uint32_t)EPOLLIN);
}

/* Writing waits for the end of the turn, so that what one turn queues goes out in one write; only
 * what the socket did not take then waits for EPOLLOUT. While connecting, EPOLLOUT is the event. */
static void ev_add_write(void *p) {
    struct redis_async *r = p;
    if (r->up && !r->flushing)
        loop_defer(r->loop, &r->flush);
    else
        update_io(r, r->wanted | EPOLLOUT);
}

static void ev_del_write(void *p) {
    struct redis_async *r = p;
    update_io(r, r->wanted & ~(uint32_t)EPOLLOUT);
}

static void ev_cleanup(void *p) {
    struct redis_async *r = p;
    update_io(r, 0);
}

static void on_flush(void *p) {
    struct redis_async *r = p;
    if (!r->ac || !r->up)
        return;
    r->flushing = true;
    redisAsyncHandleWrite(r->ac);
    r->flushing = false;
}

static void on_ready(void *p, uint32_t events) {
    struct redis_async *r = p;
    if (r->ac && (events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
        redisAsyncHandleRead(r->ac);
    if (r->ac && (events & EPOLLOUT))
        redisAsyncHandleWrite(r->ac);
}

static void connect_now(struct redis_async *r);

#define NO_ANSWER "no answer in time"

static void went_down(struct redis_async *r, const char *why) {
    if (r->freeing)
        return;
    if (r->up || r->backoff_ms == BACKOFF_FIRST_MS)
        log_event(LOG_WARN, "redis is away", LOG_STR("error", why));
    r->up = false;
    r->ac = NULL;
    loop_timer_set(r->loop, &r->timer, loop_now_ms(r->loop) + r->backoff_ms);
    r->backoff_ms = r->backoff_ms * 2 > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : r->backoff_ms * 2;
    settle(r);
}

/* hiredis frees the context after this and after a failed connect; so we forget it. */
static void on_disconnect(const redisAsyncContext *ac, int status) {
    struct redis_async *r = ac->data;
    went_down(r, r->late ? NO_ANSWER : status == REDIS_OK ? "closed" : ac->errstr);
}

/* The answer to the last command of the greeting: from here on calls are taken. */
static void on_greeted(redisAsyncContext *ac, void *reply, void *p) {
    struct redis_async *r = p;
    if (!reply || r->freeing)
        return;
    if (redis_is_error(reply)) {
        log_event(LOG_ERROR, "redis refuses us", LOG_STR("error", ((redis_reply *)reply)->str));
        redisAsyncFree(ac);
        return;
    }
    r->up = true;
    if (r->reconnects && r->had)
        __atomic_fetch_add(r->reconnects, 1, __ATOMIC_RELAXED); /* shared with other processes */
    r->had = true;
    r->backoff_ms = BACKOFF_FIRST_MS;
    loop_timer_cancel(r->loop, &r->timer);
    log_event(LOG_INFO, "redis is connected", LOG_STR("host", r->url.host));
    settle(r);
}

/* AUTH or SELECT was refused: not the server, or not the database, that was asked for. */
static void on_greeting(redisAsyncContext *ac, void *reply, void *p) {
    struct redis_async *r = p;
    if (!redis_is_error(reply) || r->freeing)
        return;
    log_event(LOG_ERROR, "redis refuses us", LOG_STR("error", ((redis_reply *)reply)->str));
    redisAsyncFree(ac); /* what comes behind is called back with a NULL reply */
}

static void on_ignored(redisAsyncContext *ac, void *reply, void *p) {
    struct redis_async *r = p;
    if (redis_is_error(reply) && !r->freeing && !r->up)
        log_event(LOG_ERROR, "redis refuses us", LOG_STR("error", ((redis_reply *)reply)->str));
    (void)ac;
}

static void send_plain(struct redis_async *r, redisCallbackFn *fn, const struct str_view *args,
                       size_t n) {
    const char *argv[REDIS_MAX_ARGS];
    size_t lens[REDIS_MAX_ARGS];
    to_argv(args, n, argv, lens);
    redisAsyncCommandArgv(r->ac, fn, r, (int)n, argv, lens);
}

static void load_scripts(struct redis_async *r) {
    for (size_t i = 0; i < r->n_scripts; i++)
        send_plain(
            r, on_ignored,
            (struct str_view[]){str_view("SCRIPT"), str_view("LOAD"), str_view(r->scripts[i].body)},
            3);
}

static void on_connect(const redisAsyncContext *ac, int status) {
    struct redis_async *r = ac->data;
    if (status != REDIS_OK) {
        went_down(r, ac->errstr);
        return;
    }
    loop_timer_set(r->loop, &r->timer, loop_now_ms(r->loop) + GREET_MS);
    char db[16];
    struct str_view args[2][3] = {{{NULL, 0}}};
    size_t lens[2] = {0};
    size_t n = greeting(&r->url, db, args, lens);
    for (size_t i = 0; i < n; i++)
        send_plain(r, on_greeting, args[i], lens[i]);
    load_scripts(r);
    send_plain(r, on_greeted, (struct str_view[]){str_view("DBSIZE")}, 1);
}

static void connect_now(struct redis_async *r) {
    redisAsyncContext *ac = r->url.port ? redisAsyncConnect(r->url.host, r->url.port)
                                        : redisAsyncConnectUnix(r->url.host);
    if (!ac || ac->err) {
        char why[128];
        snprintf(why, sizeof why, "%s", ac ? ac->errstr : "out of memory");
        if (ac)
            redisAsyncFree(ac);
        went_down(r, why);
        return;
    }
    if (r->url.tls && start_tls(&ac->c, &r->url) < 0) {
        redisAsyncFree(ac);
        went_down(r, "TLS could not be set up");
        return;
    }
    r->ac = ac;
    r->late = r->deaf = false;
    r->wanted = 0;
    r->io = (struct loop_io){.fd = ac->c.fd, .ready = on_ready, .ctx = r};
    ac->data = r;
    ac->ev.data = r;
    ac->ev.addRead = ev_add_read;
    ac->ev.delRead = ev_del_read;
    ac->ev.addWrite = ev_add_write;
    ac->ev.delWrite = ev_del_write;
    ac->ev.cleanup = ev_cleanup;
    redisAsyncSetConnectCallback(ac, on_connect);
    redisAsyncSetDisconnectCallback(ac, on_disconnect);
    loop_timer_set(r->loop, &r->timer, loop_now_ms(r->loop) + REACH_MS);
}

/* One timer for three duties, told apart by the state: the next attempt, a connect that hangs, and
 * a server that does not answer the oldest call. It is set lazily, so a busy loop seldom moves it.
 */
static void on_timer(void *p) {
    struct redis_async *r = p;
    if (!r->ac) {
        connect_now(r);
        return;
    }
    if (r->up && !r->deaf) {
        if (r->sent.next == &r->sent)
            return;
        if (r->sent.next->deadline_ms > loop_now_ms(r->loop)) {
            loop_timer_set(r->loop, &r->timer, r->sent.next->deadline_ms);
            return;
        }
    }
    redisAsyncContext *ac = r->ac;
    bool was_up = r->up;
    r->late = true;
    redisAsyncFree(ac); /* calls back all that is pending; on_disconnect only if it was connected */
    if (r->ac == ac) {
        r->backoff_ms = was_up ? BACKOFF_FIRST_MS : r->backoff_ms;
        went_down(r, NO_ANSWER);
    }
}

struct redis_async *redis_async_new(struct loop *loop, const struct redis_url *url,
                                    const struct redis_script *scripts, size_t n_scripts,
                                    void (*settled)(void *ctx), void *ctx) {
    struct redis_async *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->loop = loop;
    r->url = *url;
    r->scripts = scripts;
    r->n_scripts = n_scripts;
    r->backoff_ms = BACKOFF_FIRST_MS;
    r->sent.next = r->sent.prev = &r->sent;
    r->flush = (struct loop_deferred){.call = on_flush, .ctx = r};
    r->timer = (struct loop_timer){.fire = on_timer, .ctx = r};
    r->settled = settled;
    r->settled_ctx = ctx;
    buf_init(&r->command, COMMAND_BYTES);
    loop_timer_set(loop, &r->timer, loop_now_ms(loop)); /* the first attempt, from the loop */
    return r;
}

void redis_async_free(struct redis_async *r) {
    if (!r)
        return;
    r->freeing = true;
    r->up = false;
    loop_timer_cancel(r->loop, &r->timer);
    if (r->ac)
        redisAsyncFree(r->ac);
    while (r->spare) {
        struct pending *next = r->spare->next;
        free(r->spare);
        r->spare = next;
    }
    buf_release(&r->command);
    free(r); /* callers free it after loop_run returned, when no deferred call is queued */
}

bool redis_async_up(const struct redis_async *r) {
    return r->up;
}

void redis_async_count(struct redis_async *r, uint64_t *reconnects) {
    r->reconnects = reconnects;
}

static void on_reply(redisAsyncContext *ac, void *reply, void *p);

static void forget_command(struct pending *call) {
    redisFreeCommand(call->command);
    call->command = NULL;
}

/* Once, behind the scripts. False: it cannot be. */
static bool send_again(struct redis_async *r, struct pending *call) {
    bool sent = call->command && redisAsyncFormattedCommand(r->ac, on_reply, call, call->command,
                                                            call->command_len) == REDIS_OK;
    forget_command(call);
    return sent;
}

static void on_reply(redisAsyncContext *ac, void *reply, void *p) {
    struct pending *call = p;
    struct redis_async *r = call->owner;
    (void)ac;
    if (r->up && is_unknown_script(reply)) {
        load_scripts(r); /* goes out before the caller's next attempt */
        if (send_again(r, call))
            return;
    }
    forget_command(call);
    call->prev->next = call->next;
    call->next->prev = call->prev;
    redis_done_fn *done = call->done;
    void *ctx = call->ctx;
    call->next = r->spare;
    r->spare = call;
    int rc = reply ? error_rc(reply) : -ENOTCONN;
    if (rc < 0 && reply)
        log_event(LOG_DEBUG, "redis error", LOG_STR("error", ((redis_reply *)reply)->str));
    done(ctx, rc, rc < 0 ? NULL : reply);
}

static struct pending *pending_take(struct redis_async *r, redis_done_fn *done, void *ctx) {
    struct pending *call = r->spare;
    if (call)
        r->spare = call->next;
    else
        call = malloc(sizeof *call);
    if (call)
        *call = (struct pending){.owner = r,
                                 .done = done,
                                 .ctx = ctx,
                                 .next = &r->sent,
                                 .prev = r->sent.prev,
                                 .deadline_ms = loop_now_ms(r->loop) + CALL_TIMEOUT_MS};
    return call;
}

/* hiredis took the command, or did not: the call is in flight, or spare again. */
static int pending_sent(struct redis_async *r, struct pending *call, int status) {
    if (status != REDIS_OK) {
        forget_command(call);
        call->next = r->spare;
        r->spare = call;
        return -ENOTCONN;
    }
    bool idle = r->sent.next == &r->sent;
    r->sent.prev->next = call;
    r->sent.prev = call;
    if (idle && !loop_timer_armed(&r->timer))
        loop_timer_set(r->loop, &r->timer, call->deadline_ms);
    return 0;
}

/* With `again` the command is kept, to be sent once more should its script be unknown. */
static int call_args(struct redis_async *r, const struct str_view *args, size_t n, bool again,
                     redis_done_fn *done, void *ctx) {
    if (!r->up)
        return -ENOTCONN;
    struct pending *call = pending_take(r, done, ctx);
    if (!call)
        return -ENOMEM;
    const char *argv[REDIS_MAX_ARGS];
    size_t lens[REDIS_MAX_ARGS];
    to_argv(args, n, argv, lens);
    if (!again)
        return pending_sent(r, call,
                            redisAsyncCommandArgv(r->ac, on_reply, call, (int)n, argv, lens));
    long long len = redisFormatCommandArgv(&call->command, (int)n, argv, lens);
    if (len < 0)
        return pending_sent(r, call, REDIS_ERR_OOM);
    call->command_len = (size_t)len;
    return pending_sent(
        r, call,
        redisAsyncFormattedCommand(r->ac, on_reply, call, call->command, call->command_len));
}

int redis_async_call(struct redis_async *r, const struct str_view *args, size_t n,
                     redis_done_fn *done, void *ctx) {
    return call_args(r, args, n, false, done, ctx);
}

int redis_async_eval_composed(struct redis_async *r, const struct redis_script *s, size_t nkeys,
                              const struct buf *keys, size_t nargs, const struct buf *args,
                              redis_done_fn *done, void *ctx) {
    struct buf *b = &r->command;
    if (!r->up)
        return -ENOTCONN;
    buf_clear(b);
    add_eval(b, s, false, nkeys, nargs);
    buf_add(b, keys->data, keys->len);
    buf_add(b, args->data, args->len);
    struct pending *call = b->failed ? NULL : pending_take(r, done, ctx);
    if (!call)
        return -ENOMEM;
    return pending_sent(r, call,
                        redisAsyncFormattedCommand(r->ac, on_reply, call, b->data, b->len));
}

int redis_async_eval(struct redis_async *r, const struct redis_script *s,
                     const struct str_view *keys, size_t nkeys, const struct str_view *args,
                     size_t nargs, redis_done_fn *done, void *ctx) {
    struct str_view all[REDIS_MAX_ARGS];
    char text[24];
    size_t n = eval_args(s, true, keys, nkeys, args, nargs, text, all);
    return call_args(r, all, n, true, done, ctx);
}
