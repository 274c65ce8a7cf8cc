#include "worker/child.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "job/watch.h"

enum {
    CALL_TIMEOUT_MS = 5000, /* Redis and the database: one that hangs longer is away */
    LOOK_MS = 1000,         /* between two looks whether they still take writes */
};

/* ---- signals ---- */

static void on_signal(int signo) {
    (void)signo; /* its work is to end a wait */
}

bool child_stopping(struct child *w) {
    struct timespec now = {0, 0};
    while (sigtimedwait(&w->signals, NULL, &now) > 0)
        if (w->stop_ms == 0)
            w->stop_ms = clock_mono_ms();
    return w->stop_ms != 0;
}

void child_nap(struct child *w, int64_t ms) {
    struct timespec ts = {ms / 1000, (long)(ms % 1000) * 1000000};
    turn_now(w->o->turn);
    if (sigtimedwait(&w->signals, NULL, &ts) > 0 && w->stop_ms == 0)
        w->stop_ms = clock_mono_ms();
}

static void set_signals(struct child *w) {
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

/* ---- connections ---- */

static void drop_redis(struct child *w) {
    redis_close(w->redis);
    w->redis = NULL;
}

static void drop_db(struct child *w) {
    db_close(w->db);
    w->db = NULL;
}

/* A connection stands; /metrics shows how many were lost before. One that a signal made us close is
 * not lost. */
static void count_opened(struct child *w, bool *had, const char *server) {
    if (*had && !w->stop_ms)
        child_redis_rc(w, watch_reconnected(w->redis, server));
    *had = true;
}

/* Says what is wrong with a server, once, and when it is over. */
static void note(struct child *w, struct server_fault *known, const struct server_fault *now,
                 const char *server) {
    if (!fault_note(known, now))
        return;
    char msg[64];
    snprintf(msg, sizeof msg, "%s is connected again", server);
    if (now->trouble != SERVER_FINE)
        fault_log(known, server, w->id);
    else
        log_event(LOG_INFO, msg, LOG_STR("worker_id", w->id));
}

/* One that takes no writes is of no use: it is left, so that the next attempt finds whoever stands
 * behind the name then. */
int child_open_redis(struct child *w) {
    struct server_fault now;
    if (w->redis)
        return 0;
    int rc = redis_open(&w->o->redis, &w->redis_names, CALL_TIMEOUT_MS, &w->redis, &now);
    if (rc == 0 && now.trouble == SERVER_NO_WRITES) {
        drop_redis(w);
        rc = -EROFS;
    }
    note(w, &w->redis_fault, &now, "redis");
    if (rc == 0)
        count_opened(w, &w->had_redis, "redis");
    return rc == 0 && !w->redis ? -ENOTCONN : rc;
}

/* That it takes no writes is the API's to say: workers read, and may have been given a replica. */
static int open_db(struct child *w) {
    struct server_fault now;
    int rc = db_open(&w->o->db, &w->db_names, CALL_TIMEOUT_MS, &w->db, &now);
    if (now.trouble == SERVER_NO_WRITES)
        fault_set(&now, SERVER_FINE, NULL);
    note(w, &w->db_fault, &now, "database");
    if (rc == 0)
        count_opened(w, &w->had_db, "db");
    return rc == 0 && !w->redis ? -ENOTCONN : rc;
}

/* Those who only read would never hear that their server takes no writes any more, and another
 * stands behind its name: what they read there would be ever older. One that takes none is left; 0,
 * or what became of a connection. */
static int look(struct child *w) {
    struct server_fault now;
    int64_t now_ms = clock_mono_ms();
    if (now_ms - w->looked_ms < LOOK_MS)
        return 0;
    w->looked_ms = now_ms;
    int rc = w->redis ? redis_takes_writes(w->redis, &now) : 0;
    if (rc < 0)
        drop_redis(w);
    if (rc == -EROFS)
        note(w, &w->redis_fault, &now, "redis");
    if (rc < 0)
        return rc == -EROFS ? 0 : rc;
    rc = w->db ? db_takes_writes(w->db, &now) : 0;
    if (rc < 0)
        drop_db(w);
    w->had_db = w->had_db && rc != -EROFS; /* not one that was lost */
    return rc == -EROFS ? 0 : rc;
}

int child_connect(struct child *w) {
    int rc = look(w);
    if (rc == 0)
        rc = child_open_redis(w);
    if (rc == 0 && !w->db)
        rc = open_db(w);
    if (rc == 0)
        w->backoff_ms = CHILD_RECONNECT_FIRST_MS;
    return rc;
}

void child_wait_to_reconnect(struct child *w) {
    child_nap(w, w->backoff_ms);
    w->backoff_ms =
        w->backoff_ms * 2 > CHILD_RECONNECT_MAX_MS ? CHILD_RECONNECT_MAX_MS : w->backoff_ms * 2;
}

int child_redis_rc(struct child *w, int rc) {
    turn_now(w->o->turn);
    w->refused = w->refused || rc == -EPROTO;
    if (w->redis && !redis_usable(w->redis))
        drop_redis(w);
    return rc;
}

static void say_amiss(void *ctx, const char *text, bool stops, bool mended) {
    const struct child *w = ctx;
    (void)stops;
    if (mended)
        log_event(LOG_INFO, "this is mended in redis", LOG_STR("worker_id", w->id),
                  LOG_STR("error", text));
    else
        log_event(LOG_ERROR, "redis is not as tierd needs it", LOG_STR("worker_id", w->id),
                  LOG_STR("error", text));
}

/* The API says what only people watch; here counts what stops. */
static void keep_stopping(struct keys_amiss *a) {
    size_t n = 0;
    for (size_t i = 0; i < a->n; i++)
        if (a->each[i].stops)
            a->each[n++] = a->each[i];
    a->n = n;
}

bool child_is_stopped(struct child *w) {
    struct keys_amiss found;
    char words[REDIS_WORDS_BYTES];
    if (!w->refused || !w->redis)
        return false;
    memcpy(words, redis_words(w->redis), sizeof words);
    int rc = keys_look(&w->queue, w->redis, &found);
    if (rc == -EPROTO)
        keys_only(&found, redis_words(w->redis));
    else if (child_redis_rc(w, rc) < 0)
        return false;
    keep_stopping(&found);
    keys_tell(&w->amiss, &found, say_amiss, w);
    w->refused = found.n > 0;
    if (!w->refused && strcmp(w->said, words) != 0)
        log_event(LOG_ERROR, "redis refuses a command", LOG_STR("worker_id", w->id),
                  LOG_STR("error", words));
    if (!w->refused)
        memcpy(w->said, words, sizeof w->said);
    return w->refused;
}

int child_db_rc(struct child *w, int rc) {
    turn_now(w->o->turn);
    bool refused = rc < 0 && rc != -ENOTCONN && w->db;
    snprintf(w->db_error, sizeof w->db_error, "%s", refused ? db_error(w->db) : "");
    if (rc == -ENOTCONN || rc == -EPROTO) /* rights that were granted since count for a new one */
        drop_db(w);
    return rc;
}

/* `server` is not connected: what is known of it, or that it is away. */
static void gone_text(const struct server_fault *f, const char *server, char *out, size_t cap) {
    char what[FAULT_TEXT_BYTES];
    struct server_fault away = {.trouble = SERVER_AWAY};
    fault_text(f->trouble == SERVER_FINE ? &away : f, false, what);
    snprintf(out, cap, "%s %s", server, what);
}

void child_away_text(const struct child *w, char *out, size_t cap) {
    if (!w->redis)
        gone_text(&w->redis_fault, "redis", out, cap);
    else if (w->db_error[0])
        snprintf(out, cap, "the database refuses: %s", w->db_error);
    else if (!w->db)
        gone_text(&w->db_fault, "the database", out, cap);
    else
        snprintf(out, cap, "redis refuses, see its log");
}

/* ---- what is said once ---- */

static void say_more(void *ctx, const char *text, uint64_t more) {
    const struct child *w = ctx;
    log_event(LOG_WARN, "this came again", LOG_STR("worker_id", w->id), LOG_U64("times", more),
              LOG_STR("error", text));
}

void child_tell_causes(struct child *w, bool all) {
    causes_tell(&w->causes, all ? INT64_MAX / 2 : clock_mono_ms(), say_more, w);
}

/* ---- from start to end ---- */

/* host.pid.nonce, of letters that need no escape anywhere. */
static void make_id(struct child *w) {
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

int child_init(struct child *w, const struct worker_options *options) {
    *w = (struct child){
        .o = options, .cfg = options->config, .backoff_ms = CHILD_RECONNECT_FIRST_MS};
    queue_init(&w->queue, w->cfg->done_ttl_ms);
    make_id(w);
    set_signals(w);
    return http_client_new(w->cfg->api, &w->api);
}

void child_release(struct child *w) {
    drop_redis(w);
    drop_db(w);
    http_client_free(w->api);
    name_lookup_release(&w->redis_names);
    name_lookup_release(&w->db_names);
}
