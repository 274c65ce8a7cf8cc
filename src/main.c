/*
 * tierd: moves content between storage levels as its view counts change.
 *
 * The map of the house; each layer includes only those to its right:
 *
 *   main -> api | worker | ops -> job | fs -> store -> net -> base
 *
 *   base/    log buf str clock config name url notify sys alloc rate turns window: the libc alone
 *   net/     loop (epoll), http_syntax http_chunked http_parse http_server peers form listen (the
 *            API), http_client (the worker), resolve (names of hosts, c-ares)
 *   store/   redis (hiredis), db (MariaDB Connector/C), server_url (where they are)
 *   fs/      path (directories), level (their markers), file (looking), move, retire
 *   job/     job (its JSON), state, ladder and policy (where a count belongs), catalog (all SQL),
 *            queue and watch (all Redis), report (what people see)
 *   queue/   lua (the scripts that Redis runs, one a file, and the parts that they share), pack.pl
 *            (makes C strings of them), keys (what C and they both name)
 *   api/     api (one process), routes (one handle_<verb> for each request), show (status,
 *            metrics and the page), metrics (counters of all API processes)
 *   worker/  supervisor (forks, restarts, replaces what hangs), worker (claims, scans, sleeps),
 * group (the steps of a move), levels (their directories), looker (measures them, may wait for one
 * that hangs), child (connections, signals) ops/     one file for each command of the operator
 *
 * This file reads the options, opens the port and hands over to the supervisor. Nothing includes
 * it.
 */
#include <ares.h>
#include <errno.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <mysql.h>
#include <openssl/crypto.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>
#include <yyjson.h>

#include "api/api.h"
#include "base/config.h"
#include "base/turns.h"
#include "fs/path.h"
#include "job/policy.h"
#include "net/http_client.h"
#include "net/listen.h"
#include "ops/ops.h"
#include "worker/looker.h"
#include "worker/supervisor.h"
#include "worker/worker.h"

enum { API_MAX = 64, ROOT_WAIT_MS = 2000 };

struct tierd {
    int argc;
    char **argv, **env;
    struct config cfg;
    struct redis_url redis;
    struct db_url db;
    char listen_name[LISTEN_NAME_BYTES];
    int listen_fds[API_MAX];
    size_t n_listen;
    struct metrics *metrics; /* of all API processes */
    struct rate *rate;       /* of all worker children together */
    struct turns *turns;     /* of all children */
};

static void print_version(void) {
    printf("tierd %s (%s)\n", TIERD_VERSION, TIERD_GIT);
    printf("  libc         %s\n", TIERD_LIBC);
    printf("  hiredis      %d.%d.%d\n", HIREDIS_MAJOR, HIREDIS_MINOR, HIREDIS_PATCH);
    printf("  Connector/C  %s\n", MARIADB_PACKAGE_VERSION);
    printf("  TLS          %s\n", OpenSSL_version(OPENSSL_VERSION));
    printf("  yyjson       %s\n", YYJSON_VERSION_STRING);
    printf("  c-ares       %s\n", ares_version(NULL));
}

/* ---- options that need more than a look at their text ---- */

/* The first line of the file. */
static int read_secret(const struct config *cfg, const char *option, const char *path, char *out,
                       size_t cap) {
    const char *why = NULL;
    FILE *f = fopen(path, "re");
    if (!f)
        why = strerror(errno);
    else if (!fgets(out, (int)cap, f))
        why = ferror(f) ? strerror(errno) : "the file is empty";
    if (f)
        fclose(f);
    if (!why) {
        size_t n = strcspn(out, "\r\n");
        if (n == 0)
            why = "its first line is empty";
        else if (!out[n] && n + 1 == cap)
            why = "its first line is too long";
        out[n] = '\0';
    }
    if (!why)
        return 0;
    char where[CONFIG_PLACE_BYTES];
    config_place(cfg, option, where);
    log_refusal("%scannot read a password from %s: %s", where, path, why);
    return EX_CONFIG;
}

/* Only a worker has a use for the window, and only a window for the time zone. */
static int check_zone(const struct config *cfg) {
    char why[WINDOW_WHY_BYTES], where[CONFIG_PLACE_BYTES];
    bool has_window = cfg->window.from_min != cfg->window.to_min;
    if (!has_window || cfg->n_words || cfg->role == ROLE_API)
        return 0;
    int rc = window_check_zone(why);
    if (rc == 0)
        return 0;
    if (rc == -ENODATA) {
        log_event(LOG_WARN, why);
        return 0;
    }
    config_place(cfg, "window", where);
    log_refusal("%s%s", where, why);
    return EX_CONFIG;
}

static int check_values(const struct config *cfg, struct redis_url *redis, struct db_url *db) {
    const char *why, *option;
    struct http_client *client;
    struct policy policy;
    if (redis_url_parse(cfg->redis, redis, &why) < 0)
        return config_refuse(cfg, "redis", why);
    if (db_url_parse(cfg->db, db, &why) < 0)
        return config_refuse(cfg, "db", why);
    if (http_client_new(cfg->api, &client) < 0)
        return config_refuse(cfg, "api", "allowed is http://host:port or http+unix:///path");
    http_client_free(client);
    if (policy_init(&policy, cfg->demote_margin, cfg->min_residency_ms, cfg->max_use, &option) < 0)
        return config_refuse(cfg, option,
                             strcmp(option, "demote-margin") == 0
                                 ? "allowed is a percentage such as 10%"
                                 : "allowed is a percentage such as 90%, or gold=80%,90%");
    int rc = 0;
    if (cfg->redis_password_file)
        rc = read_secret(cfg, "redis-password-file", cfg->redis_password_file, redis->password,
                         sizeof redis->password);
    if (rc == 0 && cfg->db_password_file)
        rc = read_secret(cfg, "db-password-file", cfg->db_password_file, db->password,
                         sizeof db->password);
    if (rc == 0)
        rc = check_zone(cfg);
    return rc;
}

/* A root that is not there is a slip of the pen: no level could ever lie under it. */
static int check_roots(const struct config *cfg) {
    char place[CONFIG_PLACE_BYTES];
    for (int64_t i = 0; i < cfg->n_roots; i++) {
        int rc = path_look(cfg->roots[i], ROOT_WAIT_MS);
        if (rc != -ENOENT && rc != -ENOTDIR)
            continue;
        config_place(cfg, "root", place);
        log_refusal("%sthe root %s is not a directory: %s", place, cfg->roots[i], strerror(-rc));
        return EX_CONFIG;
    }
    return 0;
}

/* One socket for each API process; they stay open here, so that a restart refuses nobody. */
static int open_sockets(struct tierd *t) {
    const char *where = t->cfg.listen;
    size_t want = (size_t)t->cfg.api_workers;
    for (size_t i = 0; i < want; i++) {
        int fd = i > 0 && strncmp(where, "unix:", 5) == 0
                     ? fcntl(t->listen_fds[0], F_DUPFD_CLOEXEC, 0)
                     : listen_open(i == 0 ? where : t->listen_name, want > 1, t->listen_name);
        if (fd == -EINVAL)
            return config_refuse(&t->cfg, "listen",
                                 "allowed is ADDR:PORT, [v6]:PORT or unix:/path");
        if (fd < 0) {
            char place[CONFIG_PLACE_BYTES];
            config_place(&t->cfg, "listen", place);
            log_refusal("%scannot listen on %.64s: %s", place, where, strerror(-fd));
            return EX_OSERR;
        }
        t->listen_fds[i] = fd;
        t->n_listen = i + 1;
    }
    return 0;
}

/* With --role=all the workers post to the API beside them, whatever port it got. */
static int point_at_own_api(struct tierd *t) {
    char url[LISTEN_NAME_BYTES + 16];
    if (t->cfg.role != ROLE_ALL)
        return 0;
    if (strncmp(t->listen_name, "unix:", 5) == 0)
        snprintf(url, sizeof url, "http+unix://%s", t->listen_name + 5);
    else
        snprintf(url, sizeof url, "http://%s", t->listen_name);
    char *copy = strdup(url);
    if (!copy)
        return EX_OSERR;
    free(t->cfg.api);
    t->cfg.api = copy;
    return 0;
}

/* ---- children ---- */

static void tell_ready(void *p) {
    const int *ready_fd = p;
    supervisor_tell_ready(*ready_fd);
}

static int run_api(void *ctx, size_t index, int ready_fd, struct turn *turn) {
    struct tierd *t = ctx;
    struct api_options o = {.config = &t->cfg,
                            .redis = t->redis,
                            .db = t->db,
                            .listen_fd = t->listen_fds[index],
                            .slot = metrics_slot(t->metrics, index),
                            .metrics = t->metrics,
                            .turn = turn,
                            .ready = tell_ready,
                            .ready_ctx = &ready_fd};
    return api_run(&o);
}

static int run_as_worker(struct tierd *t, int ready_fd, struct turn *turn,
                         int (*run)(const struct worker_options *options)) {
    struct worker_options o = {.config = &t->cfg,
                               .redis = t->redis,
                               .db = t->db,
                               .rate = t->rate,
                               .turns = t->turns,
                               .turn = turn,
                               .ready = tell_ready,
                               .ready_ctx = &ready_fd};
    for (size_t i = 0; i < t->n_listen; i++)
        close(t->listen_fds[i]);
    return run(&o);
}

static int run_worker(void *ctx, size_t index, int ready_fd, struct turn *turn) {
    (void)index;
    return run_as_worker(ctx, ready_fd, turn, worker_run);
}

static int run_looker(void *ctx, size_t index, int ready_fd, struct turn *turn) {
    (void)index;
    return run_as_worker(ctx, ready_fd, turn, looker_run);
}

static void api_ready(void *ctx) {
    struct tierd *t = ctx;
    log_plain("ready",
              (const struct log_field[]){LOG_STR("role", "api"), LOG_STR("listen", t->listen_name)},
              2);
}

static void worker_ready(void *ctx) {
    struct tierd *t = ctx;
    log_plain("ready",
              (const struct log_field[]){LOG_STR("role", "worker"),
                                         LOG_U64("workers", (uint64_t)t->cfg.workers)},
              2);
}

/* SIGHUP: what the children read at their start is read again. Port and numbers of children stay.
 */
static int reload(void *ctx) {
    struct tierd *t = ctx;
    struct config cfg;
    struct redis_url redis;
    struct db_url db;
    int rc = config_load(&cfg, t->argc, t->argv, t->env);
    if (rc == 0)
        rc = check_values(&cfg, &redis, &db);
    if (rc != 0) {
        log_event(LOG_ERROR, "the new settings are refused, the old ones stay");
        config_release(&cfg);
        return -EINVAL;
    }
    if (strcmp(cfg.listen, t->cfg.listen) != 0 || cfg.workers != t->cfg.workers ||
        cfg.api_workers != t->cfg.api_workers || cfg.role != t->cfg.role)
        log_event(LOG_WARN, "role, listen, workers and api-workers change at the next start only");
    cfg.role = t->cfg.role;
    cfg.workers = t->cfg.workers;
    cfg.api_workers = t->cfg.api_workers;
    config_release(&t->cfg);
    t->cfg = cfg;
    t->redis = redis;
    t->db = db;
    log_setup(cfg.log_level, cfg.log_format);
    rate_set(t->rate, (uint64_t)cfg.bandwidth_bytes);
    return point_at_own_api(t) == 0 ? 0 : -ENOMEM;
}

static int run(struct tierd *t) {
    struct supervisor s = {.turns = t->turns,
                           .drain_timeout_ms = &t->cfg.drain_timeout_ms,
                           .reload = reload,
                           .ctx = t};
    if (t->cfg.role != ROLE_WORKER)
        s.groups[s.n_groups++] = (struct supervisor_group){
            .role = "api", (size_t)t->cfg.api_workers, run_api, api_ready, t};
    if (t->cfg.role != ROLE_API) {
        s.groups[s.n_groups++] = (struct supervisor_group){
            .role = "worker", (size_t)t->cfg.workers, run_worker, worker_ready, t};
        s.groups[s.n_groups++] = (struct supervisor_group){
            .role = "looker", .count = 1, .run = run_looker, .ctx = t, .looks = true};
    }
    return supervisor_run(&s);
}

int main(int argc, char **argv) {
    extern char **environ;
    static struct tierd t;
    t.argc = argc;
    t.argv = argv;
    t.env = environ;
    signal(SIGCHLD, SIG_DFL); /* who starts us may ignore it: our children would end unseen */
    int rc = config_load(&t.cfg, argc, argv, environ);
    if (rc != 0)
        return rc;
    if (t.cfg.help) {
        config_help(stdout);
        ops_help(stdout);
        return 0;
    }
    if (t.cfg.version) {
        print_version();
        return 0;
    }
    log_setup(t.cfg.log_level, t.cfg.log_format);
    rc = check_values(&t.cfg, &t.redis, &t.db);
    if (rc == 0 && t.cfg.n_words) {
        rc = ops_run(&t.cfg, &t.redis, &t.db);
        config_release(&t.cfg);
        return rc;
    }
    if (rc == 0 && t.cfg.role != ROLE_API)
        rc = check_roots(&t.cfg);
    if (rc == 0 && t.cfg.role != ROLE_WORKER)
        rc = open_sockets(&t);
    if (rc == 0 && t.cfg.role != ROLE_WORKER &&
        !(t.metrics = metrics_new((size_t)t.cfg.api_workers)))
        rc = EX_OSERR;
    if (rc == 0)
        rc = point_at_own_api(&t);
    if (rc == 0 && (!(t.rate = rate_new()) || !(t.turns = turns_new())))
        rc = EX_OSERR;
    if (rc == 0) {
        rate_set(t.rate, (uint64_t)t.cfg.bandwidth_bytes);
        char *where = strdup(t.cfg.listen);
        rc = run(&t);
        if (where && t.n_listen)
            listen_remove(where);
        free(where);
    }
    metrics_free(t.metrics);
    config_release(&t.cfg);
    return rc;
}
