#include "api/api.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sysexits.h>
#include <unistd.h>

#include "api/routes.h"
#include "base/log.h"
#include "base/sys.h"
#include "job/report.h"
#include "queue/keys.h"

enum {
    DB_CONNECTIONS = 5, /* of each at once: look-ups, commits, levels, files, and one for /health */
    BODY_BYTES = 4096,  /* two numbers with their names; forms of browsers add little */
    FILES_KEPT = 32,    /* Redis, database, loop, signals, log, with room */
    USE_AGE_MS = 3000,  /* how old the use of levels may be, when a rule asks for it */
    USE_RETRY_MS = 100, /* and how soon it is asked for again when it could not be had */
    TURN_MS = 5000,     /* between two words that the loop turns */
};

struct api {
    const struct api_options *options;
    struct loop *loop;
    struct http_server *server;
    struct queue queue;
    struct routes routes;
    struct guard guard;
    struct policy policy;
    struct show show;
    struct level_use use[LADDER_MAX_LEVELS]; /* of each level of the ladder as it stands, */
    struct seen_use {
        char level[JOB_LEVEL_BYTES];
        struct level_use use;
    } seen[LADDER_MAX_LEVELS]; /* and of the one that there was when it was looked at */
    size_t n_seen;
    struct loop_timer look; /* at how full the levels are, when a rule asks for it */
    struct loop_timer turn;
    struct loop_io signals;
    struct loop_timer give_up;
    int waiting; /* first attempts that have not ended */
    bool serves; /* they have ended: it listens */
    bool names_checked;
};

static void serve(struct api *a) {
    int rc = http_server_listen(a->server, a->options->listen_fd);
    a->serves = true;
    if (rc < 0)
        log_event(LOG_ERROR, "cannot listen", LOG_ERRNO(rc));
    if (a->options->ready)
        a->options->ready(a->options->ready_ctx);
}

/* ---- how full levels are ---- */

/* Soon while nothing could be learned, so that a rule is not without its numbers for long. */
static void looked(struct api *a, bool learned) {
    loop_timer_set(a->loop, &a->look, loop_now_ms(a->loop) + (learned ? USE_AGE_MS : USE_RETRY_MS));
    if (!a->serves)
        serve(a);
}

static void keep_use(struct api *a, const struct ladder *ladder) {
    a->n_seen = ladder->len;
    for (size_t i = 0; i < ladder->len; i++) {
        snprintf(a->seen[i].level, JOB_LEVEL_BYTES, "%s", ladder->levels[i].name);
        a->seen[i].use = a->use[i];
    }
}

/* The ladder is another: what is known of a level goes by its name, not by its place. */
static void sort_use(struct api *a, const struct ladder *ladder) {
    memset(a->use, 0, sizeof a->use);
    for (size_t i = 0; i < a->n_seen; i++) {
        const struct level *l = ladder_find(ladder, str_view(a->seen[i].level));
        if (l)
            a->use[l - ladder->levels] = a->seen[i].use;
    }
}

static void on_use(void *p, int rc, const redis_reply *reply) {
    struct api *a = p;
    const struct ladder *ladder = catalog_ladder(a->routes.catalog);
    if (rc == 0)
        report_use(reply, ladder, a->use);
    if (rc == 0)
        keep_use(a, ladder);
    looked(a, rc == 0 && ladder->len > 0);
}

static void look(void *p) {
    struct api *a = p;
    struct str_view args[] = {str_view("HGETALL"), str_view(KEY_USE)};
    if (redis_async_call(a->routes.redis, args, 2, on_use, a) < 0)
        looked(a, false);
}

static void say_turn(void *p) {
    struct api *a = p;
    turn_now(a->options->turn);
    (void)loop_timer_set(a->loop, &a->turn, loop_now_ms(a->loop) + TURN_MS);
}

/* ---- the first attempts ---- */

static void warn(const char *why) {
    log_event(LOG_WARN, why, LOG_STR("role", "api"));
}

static void complain(const char *why) {
    log_event(LOG_ERROR, why, LOG_STR("role", "api"));
}

/* What is wrong with the levels, and with what the options say of them. */
static void check_levels(void *p) {
    struct api *a = p;
    const struct ladder *l = catalog_ladder(a->routes.catalog);
    sort_use(a, l);
    if (!a->names_checked) /* said once */
        ladder_check_names(l, a->options->config, warn);
    a->names_checked = true;
    ladder_check_paths(l, complain);
}

/* Ready once the first attempts to reach Redis, the database and the levels ended, either way: from
 * then on each request gets its true answer, even if that is 503. The rule that needs to know how
 * full the levels are holds for the first post, too. */
static void part_settled(void *p) {
    struct api *a = p;
    if (--a->waiting > 0)
        return;
    if (a->routes.use)
        look(a);
    else
        serve(a);
}

/* What is amiss in Redis is known before the first answer. */
static void redis_settled(void *p) {
    struct api *a = p;
    guard_start(&a->guard, part_settled, a);
}

static void db_settled(void *p) {
    struct api *a = p;
    if (db_pool_up(a->routes.db)) {
        a->waiting++;
        catalog_on_loaded(a->routes.catalog, part_settled, a);
    } else {
        catalog_on_loaded(a->routes.catalog, NULL, NULL);
    }
    part_settled(a);
}

static void stop(void *p) {
    struct api *a = p;
    loop_stop(a->loop);
}

static void on_signal(void *p, uint32_t events) {
    struct api *a = p;
    struct signalfd_siginfo info;
    (void)events;
    while (read(a->signals.fd, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo != SIGTERM && info.ssi_signo != SIGINT)
            continue;
        if (loop_timer_armed(&a->give_up)) /* asked twice */
            continue;
        log_event(LOG_INFO, "draining", LOG_STR("role", "api"));
        loop_timer_set(a->loop, &a->give_up,
                       loop_now_ms(a->loop) + a->options->config->drain_timeout_ms);
        http_server_drain(a->server, stop, a);
    }
}

/*
 * As many descriptors as the system allows, and no more connections than that: those to Redis and
 * the database must still find one, so that clients at the limit cannot take the service away.
 */
static size_t connections_bound(const struct config *cfg) {
    size_t wanted = (size_t)cfg->max_connections, kept = FILES_KEPT + (size_t)cfg->api_workers;
    uint64_t files = sys_files_max();
    size_t room = files > kept ? (size_t)files - kept : 1;
    if (room >= wanted)
        return wanted;
    log_event(LOG_WARN, "fewer connections than max-connections: the limit of open files is lower",
              LOG_U64("connections", room), LOG_U64("open_files", files));
    return room;
}

/* ---- rules, and what people watch ---- */

static void count_batch(void *p, size_t n) {
    struct api *a = p;
    metrics_batch(a->options->slot, n);
}

/* What people watch, and the rules that need to know more than the count. */
static int start_rules(struct api *a) {
    const struct config *cfg = a->options->config;
    const char *option;
    if (policy_init(&a->policy, cfg->demote_margin, cfg->min_residency_ms, cfg->max_use, &option) <
        0)
        return -EINVAL;
    a->show = (struct show){.loop = a->loop,
                            .redis = a->routes.redis,
                            .db = a->routes.db,
                            .catalog = a->routes.catalog,
                            .queue = &a->queue,
                            .guard = &a->guard,
                            .policy = &a->policy,
                            .metrics = a->options->metrics};
    show_init(&a->show);
    a->routes.show = &a->show;
    a->routes.policy = &a->policy;
    a->routes.metrics = a->options->slot;
    redis_async_count(a->routes.redis, &a->options->slot->n[METRIC_REDIS_RECONNECTS]);
    db_pool_count(a->routes.db, &a->options->slot->n[METRIC_DB_RECONNECTS]);
    catalog_on_batch(a->routes.catalog, count_batch, a);
    catalog_on_known(a->routes.catalog, check_levels, a);
    a->look = (struct loop_timer){.fire = look, .ctx = a};
    a->routes.use = cfg->max_use ? a->use : NULL;
    return 0;
}

static int start(struct api *a) {
    const struct config *cfg = a->options->config;
    struct http_limits limits = {
        .connections = connections_bound(cfg),
        .connections_per_address = (size_t)cfg->max_connections_per_address,
        .body_bytes = BODY_BYTES,
        .request_timeout_ms = cfg->request_timeout_ms,
        .idle_timeout_ms = cfg->idle_timeout_ms,
    };
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    a->signals = (struct loop_io){
        .fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), .ready = on_signal, .ctx = a};
    a->give_up = (struct loop_timer){.fire = stop, .ctx = a};
    a->turn = (struct loop_timer){.fire = say_turn, .ctx = a};
    say_turn(a);
    if (a->signals.fd < 0)
        return -errno;
    a->waiting = 2;
    queue_init(&a->queue, cfg->done_ttl_ms);
    a->routes.loop = a->loop;
    a->routes.queue = &a->queue;
    a->server = http_server_new(a->loop, &limits, routes_handle, routes_judge, &a->routes);
    a->routes.redis = redis_async_new(a->loop, &a->options->redis, a->queue.scripts, QUEUE_SCRIPTS,
                                      redis_settled, a);
    a->routes.db = db_pool_new(a->loop, &a->options->db, DB_CONNECTIONS, db_settled, a);
    if (!a->server || !a->routes.redis || !a->routes.db)
        return -ENOMEM;
    guard_init(&a->guard, a->loop, a->routes.redis, &a->queue);
    a->routes.guard = &a->guard;
    queue_posts_init(&a->routes.posts, &a->queue, a->loop, a->routes.redis);
    a->routes.catalog = catalog_new(a->loop, a->routes.db);
    int rc = a->routes.catalog ? start_rules(a) : -ENOMEM;
    return rc == 0 ? loop_io_set(a->loop, &a->signals, EPOLLIN) : rc;
}

int api_run(const struct api_options *options) {
    struct api a = {.options = options, .loop = loop_new()};
    int rc = a.loop ? start(&a) : -errno;
    if (rc == 0)
        rc = loop_run(a.loop);
    if (rc < 0)
        log_event(LOG_ERROR, "the API cannot run", LOG_ERRNO(rc));
    redis_async_free(a.routes.redis); /* calls back what is pending, which may still answer */
    http_server_free(a.server);
    guard_release(&a.guard);
    show_release(&a.show);
    catalog_free(a.routes.catalog);
    db_pool_free(a.routes.db);
    queue_posts_release(&a.routes.posts);
    routes_release(&a.routes);
    loop_free(a.loop);
    return rc < 0 ? EX_OSERR : 0;
}
