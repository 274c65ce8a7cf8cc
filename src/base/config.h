/*
 * config: every option of tierd, once: name, type, default, bounds, help. Flags beat the
 * environment, which beats the file, which beats the defaults (CONTRACT.md, section 1).
 *
 * config_load -> read fields -> config_release. Strings belong to the config.
 */
#ifndef TIERD_BASE_CONFIG_H
#define TIERD_BASE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/log.h"
#include "base/window.h"
#include "base/str.h"

enum {
    CONFIG_ROOTS_MAX = 32,
    CONFIG_WORKERS_MAX = 256,
    CONFIG_WORDS_MAX = 256, /* of a command: levels or cids that a person types */
    CONFIG_OPTIONS_MAX = 64,
    CONFIG_PLACE_BYTES = 384, /* a path that is cut when it is very long, a line, a name */
};

/* Where a value stands. */
enum config_from { CONFIG_DEFAULT, CONFIG_FILE, CONFIG_ENV, CONFIG_FLAG };

struct config_source {
    enum config_from from;
    int line; /* of the file */
};

enum role { ROLE_NONE, ROLE_API, ROLE_WORKER, ROLE_ALL };

struct config {
    enum role role;
    const char *words[CONFIG_WORDS_MAX]; /* a command and its arguments instead of a role; borrowed
                                            from argv */
    size_t n_words;
    char *file;
    char *listen, *redis, *db, *api;
    char *redis_password_file, *db_password_file;
    int64_t workers, api_workers, max_connections, max_connections_per_address;
    int64_t lease_ms, drain_timeout_ms, done_ttl_ms, scan_interval_ms, request_timeout_ms,
        idle_timeout_ms;
    char *roots[CONFIG_ROOTS_MAX];
    int64_t n_roots;
    bool verify, require_markers, keep_empty_dirs;
    int64_t bandwidth_bytes; /* a second, 0: no limit */
    int64_t retire_delay_ms, level_jobs;
    struct window window;
    char *levels; /* NULL: all */
    enum log_level log_level;
    enum log_format log_format;
    bool help, version;            /* asked for instead of a role */
    char *demote_margin, *max_use; /* job/policy reads them; NULL: off */
    int64_t min_residency_ms;
    bool repair, json, watch, dry_run, all_dead, all; /* flags of commands */
    struct config_source sources[CONFIG_OPTIONS_MAX]; /* of each value, in the order of the table */
};

/*
 * Reads command line, environment and file. 0, or an exit status of sysexits.h with a sentence on
 * stderr: 64 (EX_USAGE) for a flag or a variable, 78 (EX_CONFIG) for a line of the file.
 */
int config_load(struct config *cfg, int argc, char **argv, char **env);

/*
 * Reads the lines of a config file into `cfg`; `name` is said in complaints. 0, or EX_CONFIG with a
 * sentence on stderr; what came before a bad line is in `cfg` then.
 */
int config_read(struct config *cfg, const char *name, struct str_view text);

/*
 * For values that need more than a look at their text. config_place writes how a complaint on
 * `option`, which must exist, begins: "FILE:7: redis: ", "TIERD_REDIS: " or "--redis: ".
 * config_refuse says that the value of a text option is not allowed, and what is; EX_USAGE or
 * EX_CONFIG, by where it stands.
 */
void config_place(const struct config *cfg, const char *option, char out[CONFIG_PLACE_BYTES]);
int config_refuse(const struct config *cfg, const char *option, const char *allowed);

void config_release(struct config *cfg);

/* Prints every option with its default. */
void config_help(FILE *out);

#endif
