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

#include "base/clock.h"
#include "base/log.h"

enum {
    REACH_MS = 500,  /* to connect: within a second of a host's return it is tried again */
    GREET_MS = 2000, /* to be let in: a server that takes longer is as good as away */
    BACKOFF_FIRST_MS = 50,
    BACKOFF_MAX_MS = 250,             /* so that a server that came back is used within a second */
    LOOK_MS = 1000,                   /* between two looks whether it still takes writes */
    REDIAL_MS = 500,                  /* between two connections while it does not, */
    REDIAL_BUSY_MS = 20,              /* which are not closed under a call */
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

/* Whether an error says that the server takes no writes at all, from anybody. */
static bool is_no_writes(const redis_reply *r) {
    static const char *const words[] = {"READONLY ", "OOM command", "MISCONF ", "NOREPLICAS "};
    struct str_view text = redis_text(r);
    for (size_t i = 0; redis_is_error(r) && i < sizeof words / sizeof *words; i++)
        if (memmem(text.ptr, text.len, words[i], strlen(words[i])))
            return true;
    return false;
}

static void set_no_writes(struct server_fault *f, const redis_reply *error) {
    struct str_view text = redis_text(error);
    bool replica = memmem(text.ptr, text.len, "READONLY ", 9);
    fault_set(f, SERVER_NO_WRITES, replica ? "it is a replica" : text.ptr);
}

/* Rights that we lack, and keys that are elsewhere, are others' to name: they do not concern all.
 */
static bool concerns_all(const redis_reply *r) {
    static const char *const words[] = {"NOPERM ", "MOVED ", "ASK "};
    struct str_view text = redis_text(r);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (text.len >= strlen(words[i]) && memcmp(text.ptr, words[i], strlen(words[i])) == 0)
            return false;
    return redis_is_error(r);
}

/* What the answer to a first command, or to the probe, says of the server. */
static void set_by_reply(struct server_fault *f, const redis_reply *r) {
    if (is_no_writes(r))
        set_no_writes(f, r);
    else if (concerns_all(r))
        fault_set(f, SERVER_REFUSES, redis_text(r).ptr);
    else
        fault_set(f, SERVER_FINE, NULL);
}

/* It would change a key only if there were one, which there is not; whether the server takes
 * writes it says before it looks (redis.io/commands/set, XX; command flags write and denyoom). */
static const struct str_view probe[] = {{"SET", 3}, {"tierd:probe", 11}, {"", 0}, {"XX", 2}};
enum { PROBE_ARGS = sizeof probe / sizeof *probe };

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
    bool owed;      /* a reply has not been read */
    bool no_writes; /* the server said that it takes none */
    char words[REDIS_WORDS_BYTES];
};

const char *redis_words(const struct redis *r) {
    return r->words;
}

static void keep_words(char words[REDIS_WORDS_BYTES], const redis_reply *error) {
    snprintf(words, REDIS_WORDS_BYTES, "%.*s", STR_ARG(redis_text(error)));
}

static int context_errno(const redisContext *c) {
    if (c->err == REDIS_ERR_IO && errno)
        return errno == EAGAIN ? -ETIMEDOUT : -errno;
    if (c->err == REDIS_ERR_TIMEOUT)
        return -ETIMEDOUT;
    if (c->err == REDIS_ERR_OOM)
        return -ENOMEM;
    return c->err == REDIS_ERR_EOF ? -ECONNRESET : -EPROTO;
}

/* When that is why a handshake failed: what is wrong with the certificate. */
static void set_untrusted(struct server_fault *f, const SSL *ssl) {
    long verdict = SSL_get_verify_result(ssl);
    char why[FAULT_WHY_BYTES];
    if (verdict == X509_V_OK)
        return;
    snprintf(why, sizeof why, "its certificate is refused: %s",
             X509_verify_cert_error_string(verdict));
    fault_set(f, SERVER_UNTRUSTED, why);
}

/* TLS 1.2 or newer; the server must show a certificate for the URL's host from an authority that
 * the system trusts (SSL_CERT_FILE and SSL_CERT_DIR name others). hiredis alone would check no
 * name. */
static int start_tls(redisContext *c, const struct redis_url *url, SSL **out,
                     struct server_fault *fault) {
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    SSL *ssl = NULL;
    if (ctx && SSL_CTX_set_default_verify_paths(ctx) == 1 &&
        SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) == 1) {
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
        ssl = SSL_new(ctx);
    }
    SSL_CTX_free(ctx); /* the connection keeps it */
    fault_set(fault, SERVER_AWAY, "TLS could not be set up");
    if (!ssl)
        return -ENOMEM;
    if (SSL_set_tlsext_host_name(ssl, url->host) != 1 || SSL_set1_host(ssl, url->host) != 1) {
        SSL_free(ssl);
        return -EINVAL;
    }
    if (redisInitiateSSL(c, ssl) != REDIS_OK) {
        fault_set(fault, SERVER_AWAY, c->errstr);
        set_untrusted(fault, ssl);
        SSL_free(ssl);
        return -EPROTO;
    }
    *out = ssl; /* the connection's own */
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

/* Reads the reply of a call that was sent: 0, or what went wrong on the way. */
static int take_reply(struct redis *r, redis_reply **reply) {
    void *raw = NULL;
    errno = 0;
    if (redisGetReply(r->c, &raw) != REDIS_OK)
        return context_errno(r->c);
    *reply = raw;
    r->no_writes |= is_no_writes(raw);
    return 0;
}

/* Sends a command of our own and looks at what the answer says of the server; with `must`, whatever
 * error it is. */
static int ask(struct redis *r, const struct str_view *args, size_t n, bool must,
               struct server_fault *fault) {
    redis_reply *reply = NULL;
    int fd, rc = redis_start(r, args, n, &fd);
    if (rc == 0)
        rc = take_reply(r, &reply);
    fault_set(fault, SERVER_AWAY, log_errno_text(rc));
    if (rc < 0)
        return rc;
    r->owed = false;
    set_by_reply(fault, reply);
    if (must && redis_is_error(reply))
        fault_set(fault, SERVER_REFUSES, redis_text(reply).ptr);
    redis_reply_free(reply);
    return fault->trouble == SERVER_REFUSES     ? -EACCES
           : fault->trouble == SERVER_NO_WRITES ? -EROFS
                                                : 0;
}

static int greet(struct redis *r, const struct redis_url *url, struct server_fault *fault) {
    char db[16];
    struct str_view args[2][3] = {{{NULL, 0}}};
    const struct str_view ping = str_view("PING");
    size_t lens[2] = {0};
    size_t n = greeting(url, db, args, lens);
    int rc = n ? 0 : ask(r, &ping, 1, false, fault); /* who needs a password says so here */
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = ask(r, args[i], lens[i], true, fault);
    return rc;
}

static struct timeval to_timeval(int ms) {
    return (struct timeval){ms / 1000, (ms % 1000) * 1000};
}

/* At `address`, or at the socket, NULL. */
static int open_at(const struct redis_url *url, const char *address, int reach_ms, int timeout_ms,
                   struct redis **out, struct server_fault *fault) {
    SSL *ssl;
    struct timeval tv = to_timeval(timeout_ms);
    struct redis *r = calloc(1, sizeof *r);
    if (!r)
        return -ENOMEM;
    errno = 0;
    r->c = address ? redisConnectWithTimeout(address, url->port, to_timeval(reach_ms))
                   : redisConnectUnixWithTimeout(url->host, tv);
    int rc = !r->c ? -ENOMEM : r->c->err ? context_errno(r->c) : 0;
    fault_set(fault, SERVER_AWAY, log_errno_text(rc));
    if (rc == 0 && redisSetTimeout(r->c, tv) != REDIS_OK)
        rc = -EPROTO;
    if (rc == 0 && url->tls)
        rc = start_tls(r->c, url, &ssl, fault);
    if (rc == 0)
        rc = greet(r, url, fault);
    if (rc < 0) {
        redis_close(r);
        return rc;
    }
    *out = r;
    return 0;
}

/* At one address. The first that takes no writes becomes the `reader`, -EROFS. */
static int open_writer(const struct redis_url *url, const char *address, int timeout_ms,
                       struct redis **out, struct redis **reader, struct server_fault *fault) {
    struct redis *r = NULL;
    int reach_ms = timeout_ms < REACH_MS ? timeout_ms : REACH_MS;
    int rc = open_at(url, address, reach_ms, timeout_ms, &r, fault);
    if (rc == 0)
        rc = redis_takes_writes(r, fault);
    if (rc == 0)
        *out = r;
    else if (rc == -EROFS && !*reader)
        *reader = r;
    else
        redis_close(r);
    return rc;
}

int redis_open(const struct redis_url *url, struct name_lookup *names, int timeout_ms,
               struct redis **out, struct server_fault *fault) {
    struct addresses found = {.n = 1};
    struct server_fault now;
    struct redis *reader = NULL;
    char why[RESOLVE_WHY_BYTES];
    int64_t deadline_ms = clock_mono_ms() + timeout_ms;
    int rc = url->port ? resolve_wait(url->host, deadline_ms, names, &found, why) : 0;
    fault_set(fault, rc < 0 ? SERVER_UNKNOWN : SERVER_FINE, rc < 0 ? why : NULL);
    if (rc < 0)
        return rc;
    rc = -EHOSTUNREACH;
    for (size_t i = 0; i < found.n && rc < 0; i++) {
        const char *address = url->port ? found.at[i] : NULL;
        rc = open_writer(url, address, timeout_ms, out, &reader, &now);
        fault_worse(fault, &now);
    }
    if (rc == 0) {
        redis_close(reader);
        fault_set(fault, SERVER_FINE, NULL);
    } else if (reader) {
        *out = reader;
        rc = 0;
    }
    return rc;
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
    return r->c->err == 0 && !r->owed && !r->no_writes;
}

int redis_finish(struct redis *r, redis_reply **reply) {
    redis_reply *raw = NULL;
    int rc = take_reply(r, &raw);
    if (rc < 0)
        return rc;
    r->owed = false;
    rc = error_rc(raw);
    if (rc < 0) {
        keep_words(r->words, raw);
        log_event(LOG_DEBUG, "redis error", LOG_STR("error", raw->str));
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

int redis_takes_writes(struct redis *r, struct server_fault *fault) {
    return ask(r, probe, PROBE_ARGS, false, fault);
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
    if (rc != -EAGAIN || strncmp(r->words, "NOSCRIPT", 8) != 0)
        return rc;
    n = eval_args(s, false, keys, nkeys, args, nargs, text, all);
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

static bool is_unknown_script(const redis_reply *reply) {
    struct str_view text = redis_text(reply);
    return redis_is_error(reply) && text.len >= 8 && memcmp(text.ptr, "NOSCRIPT", 8) == 0;
}

/* Whether an unknown call before the `i`th brings its script along already. */
static bool comes_before(const struct redis_batch *b, size_t i) {
    for (size_t k = 0; k < i; k++)
        if (b->calls[k].unknown && b->calls[k].script == b->calls[i].script)
            return true;
    return false;
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
        add_eval(out, c->script, !comes_before(b, i), 1, c->n_args);
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
            if (error < 0)
                keep_words(r->words, reply);
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
    struct resolver *names;     /* NULL: a unix socket */
    struct addresses addresses; /* of this round of attempts */
    size_t next;                /* of them, to be tried */
    struct resolver_question question;
    struct loop_io io;
    uint32_t wanted;
    struct loop_deferred flush;
    struct loop_timer timer; /* re-connect while down, the oldest call's deadline while up */
    int64_t backoff_ms;
    bool up, flushing, freeing;
    struct server_fault fault; /* as it stands, and was logged */
    struct server_fault round; /* the worst of this round of attempts */
    struct server_fault end;   /* why we close this connection ourselves */
    struct loop_timer look;    /* whether it takes writes; while it does not, to connect anew */
    SSL *ssl;                  /* of this connection; it frees it */
    bool deaf;                 /* what it says cannot be watched for */
    size_t loading;            /* scripts that are on their way to the server */
    char words[REDIS_WORDS_BYTES];
    char refusal[REDIS_WORDS_BYTES]; /* of a script's loading on this connection */
    char said[REDIS_WORDS_BYTES];    /* the refusal that was logged */
    uint64_t *reconnects;            /* NULL: nobody counts */
    bool had;                        /* a connection before */
    struct pending sent;             /* ring of calls in flight, oldest first */
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

#define NO_ANSWER "no answer in time"

static void note(struct redis_async *r, const struct server_fault *now) {
    if (fault_note(&r->fault, now) && now->trouble != SERVER_FINE)
        fault_log(&r->fault, "redis", NULL);
}

/* The round is over without a connection, or one was lost: plans the next round. What was closed
 * only to look elsewhere for a server that takes writes is opened anew at once. */
static void rest(struct redis_async *r) {
    int64_t delay_ms = r->up && r->round.trouble == SERVER_NO_WRITES ? 0 : r->backoff_ms;
    r->up = false;
    r->addresses.n = 0;
    note(r, &r->round);
    r->round.trouble = SERVER_FINE;
    loop_timer_set(r->loop, &r->timer, loop_now_ms(r->loop) + delay_ms);
    r->backoff_ms = r->backoff_ms * 2 > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : r->backoff_ms * 2;
    settle(r);
}

/* A connection that could not be made at this address is tried at the next. */
static void went_down(struct redis_async *r, enum server_trouble trouble, const char *why) {
    struct server_fault now;
    if (r->freeing)
        return;
    fault_set(&now, trouble, why);
    if (trouble == SERVER_AWAY && r->ssl)
        set_untrusted(&now, r->ssl);
    fault_worse(&r->round, &now);
    r->ac = NULL;
    r->ssl = NULL;
    loop_timer_cancel(r->loop, &r->look);
    if (!r->up && ++r->next < r->addresses.n)
        loop_timer_set(r->loop, &r->timer, loop_now_ms(r->loop));
    else
        rest(r);
}

/* Closes the connection for a reason of our own. hiredis calls back what is pending, and us only if
 * it was connected; from within a callback of it, later. */
static void close_for(struct redis_async *r, enum server_trouble trouble, const char *why) {
    redisAsyncContext *ac = r->ac;
    fault_set(&r->end, trouble, why);
    redisAsyncFree(ac);
}

/* hiredis frees the context after this and after a failed connect; so we forget it. */
static void on_disconnect(const redisAsyncContext *ac, int status) {
    struct redis_async *r = ac->data;
    if (r->end.trouble != SERVER_FINE)
        went_down(r, r->end.trouble, r->end.why);
    else if (status != REDIS_OK && ac->err == REDIS_ERR_OTHER) /* unasked: what it says to all */
        went_down(r, SERVER_REFUSES, ac->errstr);
    else
        went_down(r, SERVER_AWAY, status == REDIS_OK ? "closed" : ac->errstr);
}

/* Whether this server is the last one that can be had in this round. */
static bool is_last(const struct redis_async *r) {
    return r->next + 1 >= r->addresses.n;
}

/* From here on calls are taken: all, or those that only read. */
static void went_up(struct redis_async *r, const struct server_fault *now) {
    bool is_news = !r->had || r->fault.trouble != SERVER_FINE;
    r->up = true;
    memcpy(r->said, r->refusal, sizeof r->said);
    if (r->reconnects && r->had && r->fault.trouble != SERVER_NO_WRITES)
        __atomic_fetch_add(r->reconnects, 1, __ATOMIC_RELAXED); /* shared with other processes */
    r->had = true;
    r->addresses.n = 0; /* the next round begins with the name */
    r->round.trouble = SERVER_FINE;
    r->backoff_ms = BACKOFF_FIRST_MS;
    loop_timer_cancel(r->loop, &r->timer);
    note(r, now);
    if (is_news && now->trouble == SERVER_FINE)
        log_event(LOG_INFO, "redis is connected", LOG_STR("host", r->url.host));
    loop_timer_set(r->loop, &r->look,
                   loop_now_ms(r->loop) + (now->trouble == SERVER_FINE ? LOOK_MS : REDIAL_MS));
    settle(r);
}

/* The answer to the last command of the greeting, the probe. */
static void on_greeted(redisAsyncContext *ac, void *reply, void *p) {
    struct redis_async *r = p;
    struct server_fault now;
    (void)ac;
    if (!reply || r->freeing || r->end.trouble != SERVER_FINE)
        return;
    set_by_reply(&now, reply);
    if (now.trouble == SERVER_REFUSES || (now.trouble == SERVER_NO_WRITES && !is_last(r)))
        close_for(r, now.trouble, now.why);
    else
        went_up(r, &now);
}

/* AUTH or SELECT was refused: not the server, or not the database, that was asked for. What comes
 * behind is called back with a NULL reply. */
static void on_greeting(redisAsyncContext *ac, void *reply, void *p) {
    struct redis_async *r = p;
    (void)ac;
    if (redis_is_error(reply) && !r->freeing && r->end.trouble == SERVER_FINE)
        close_for(r, SERVER_REFUSES, ((redis_reply *)reply)->str);
}

/* A right that we lack is said once, however often we try; what all commands are refused for, the
 * probe behind them is, too. */
static void on_loaded(redisAsyncContext *ac, void *reply, void *p) {
    struct redis_async *r = p;
    (void)ac;
    r->loading--;
    if (!redis_is_error(reply) || r->freeing || concerns_all(reply))
        return;
    keep_words(r->refusal, reply);
    if (strcmp(r->refusal, r->said) != 0)
        log_event(LOG_ERROR, "redis refuses us", LOG_STR("error", r->refusal));
    memcpy(r->said, r->refusal, sizeof r->said);
}

/* A call, or the probe, met a server that takes no writes any more: another one is looked for. */
static void lost_writes(struct redis_async *r, const redis_reply *error) {
    struct server_fault now;
    if (!r->up || r->fault.trouble == SERVER_NO_WRITES)
        return;
    set_no_writes(&now, error);
    note(r, &now);
    loop_timer_set(r->loop, &r->look, loop_now_ms(r->loop));
}

static void on_looked(void *ctx, int rc, const redis_reply *reply) {
    (void)ctx; /* noted already */
    (void)rc;
    (void)reply;
}

static void on_look(void *p) {
    struct redis_async *r = p;
    int64_t now_ms = loop_now_ms(r->loop);
    if (!r->up)
        return;
    if (r->fault.trouble != SERVER_NO_WRITES) {
        (void)redis_async_check(r, on_looked, NULL);
        loop_timer_set(r->loop, &r->look, now_ms + LOOK_MS);
    } else if (r->sent.next != &r->sent) {
        loop_timer_set(r->loop, &r->look, now_ms + REDIAL_BUSY_MS);
    } else {
        close_for(r, SERVER_NO_WRITES, r->fault.why);
    }
}

static int send_plain(struct redis_async *r, redisCallbackFn *fn, const struct str_view *args,
                      size_t n) {
    const char *argv[REDIS_MAX_ARGS];
    size_t lens[REDIS_MAX_ARGS];
    to_argv(args, n, argv, lens);
    return redisAsyncCommandArgv(r->ac, fn, r, (int)n, argv, lens);
}

/* Once for all calls that met a server without them: who is asked again goes behind these. */
static void load_scripts(struct redis_async *r) {
    for (size_t i = 0; i < r->n_scripts && r->loading <= i; i++) {
        struct str_view args[] = {str_view("SCRIPT"), str_view("LOAD"),
                                  str_view(r->scripts[i].body)};
        if (send_plain(r, on_loaded, args, 3) == REDIS_OK)
            r->loading++;
    }
}

static void on_connect(const redisAsyncContext *ac, int status) {
    struct redis_async *r = ac->data;
    r->refusal[0] = '\0';
    if (status != REDIS_OK) {
        went_down(r, SERVER_AWAY, ac->errstr);
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
    send_plain(r, on_greeted, probe, PROBE_ARGS);
}

/* To the next address of the round, or to the socket. */
static void connect_now(struct redis_async *r) {
    redisAsyncContext *ac = r->addresses.n
                                ? redisAsyncConnect(r->addresses.at[r->next], r->url.port)
                                : redisAsyncConnectUnix(r->url.host);
    if (!ac || ac->err) {
        char why[128];
        snprintf(why, sizeof why, "%s", ac ? ac->errstr : "out of memory");
        if (ac)
            redisAsyncFree(ac);
        went_down(r, SERVER_AWAY, why);
        return;
    }
    struct server_fault fault;
    if (r->url.tls && start_tls(&ac->c, &r->url, &r->ssl, &fault) < 0) {
        redisAsyncFree(ac);
        went_down(r, fault.trouble, fault.why);
        return;
    }
    r->ac = ac;
    r->end.trouble = SERVER_FINE;
    r->deaf = false;
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

static void on_resolved(void *p, const struct addresses *found, const char *why) {
    struct redis_async *r = p;
    if (!found) {
        fault_set(&r->round, SERVER_UNKNOWN, why);
        rest(r);
        return;
    }
    r->addresses = *found;
    r->next = 0;
    connect_now(r);
}

/* The next address of this round, or a new round, for which the name is looked up anew. */
static void attempt(struct redis_async *r) {
    if (!r->names || r->next < r->addresses.n)
        connect_now(r);
    else if (!r->question.at)
        resolver_ask(r->names, &r->question);
}

/* One timer for three duties, told apart by the state: the next attempt, a connect that hangs, and
 * a server that does not answer the oldest call. It is set lazily, so a busy loop seldom moves it.
 */
static void on_timer(void *p) {
    struct redis_async *r = p;
    if (!r->ac) {
        attempt(r);
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
    close_for(r, SERVER_AWAY, NO_ANSWER);
    if (r->ac == ac) { /* it was not connected */
        r->ssl = NULL;
        went_down(r, SERVER_AWAY, NO_ANSWER);
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
    r->look = (struct loop_timer){.fire = on_look, .ctx = r};
    r->settled = settled;
    r->settled_ctx = ctx;
    r->question = (struct resolver_question){.done = on_resolved, .ctx = r};
    if (url->port && !(r->names = resolver_new(loop, url->host))) {
        free(r);
        return NULL;
    }
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
    loop_timer_cancel(r->loop, &r->look);
    resolver_free(r->names);
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

const struct server_fault *redis_async_fault(const struct redis_async *r) {
    return &r->fault;
}

const char *redis_async_words(const struct redis_async *r) {
    return r->words;
}

const char *redis_async_refusal(const struct redis_async *r) {
    return r->refusal;
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
    if (rc < 0 && reply) {
        keep_words(r->words, reply);
        log_event(LOG_DEBUG, "redis error", LOG_STR("error", r->words));
    }
    if (rc < 0 && is_no_writes(reply))
        lost_writes(r, reply);
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

int redis_async_check(struct redis_async *r, redis_done_fn *done, void *ctx) {
    return redis_async_call(r, probe, PROBE_ARGS, done, ctx);
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
