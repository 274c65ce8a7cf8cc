#include "ops/ops.h"

#include <errno.h>
#include <string.h>
#include <sysexits.h>

#include "base/log.h"
#include "job/catalog.h"

enum { CALL_TIMEOUT_MS = 5000 }; /* a person waits; past it a server is away */

static const struct command {
    const char *name;
    const char *words; /* for people */
    size_t least, most;
    unsigned needs; /* OPS_REDIS | OPS_DB */
    int (*run)(struct ops *o);
    const char *help;
} commands[] = {
    {"init-level", "LEVEL ...", 1, CONFIG_WORDS_MAX, OPS_REDIS | OPS_DB, ops_init_level,
     "mark the directories of levels, so that a missing mount is recognised"},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

void ops_help(FILE *out) {
    fputs("\ncommands:\n\n", out);
    for (size_t i = 0; i < N_COMMANDS; i++) {
        char usage[64];
        snprintf(usage, sizeof usage, "%s %s", commands[i].name, commands[i].words);
        fprintf(out, "  %-22s %s\n", usage, commands[i].help);
    }
}

static const struct command *find(const char *name) {
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(name, commands[i].name) == 0)
            return &commands[i];
    return NULL;
}

static int unknown(const char *name) {
    char names[512] = "";
    for (size_t i = 0; i < N_COMMANDS; i++)
        snprintf(names + strlen(names), sizeof names - strlen(names), " %s", commands[i].name);
    log_refusal("'%.64s' is not a command; commands are:%s; options are --name=value (see "
                "tierd --help)",
                name, names);
    return EX_USAGE;
}

/* Opens what the command needs. */
static int open_all(struct ops *o, unsigned needs) {
    int rc;
    if ((needs & OPS_REDIS) && (rc = redis_open(o->redis_url, CALL_TIMEOUT_MS, &o->redis)) < 0) {
        log_refusal("redis is away: %s (%s)", log_errno_text(rc), o->redis_url->host);
        return EX_UNAVAILABLE;
    }
    if ((needs & OPS_DB) && (rc = db_open(o->db_url, CALL_TIMEOUT_MS, &o->db)) < 0) {
        log_refusal("the database is away: %s (%s)", log_errno_text(rc),
                    o->db_url->socket[0] ? o->db_url->socket : o->db_url->host);
        return EX_UNAVAILABLE;
    }
    if ((needs & OPS_DB) && (rc = catalog_levels(o->db, &o->ladder)) < 0) {
        log_refusal("the level table cannot be used: %s", log_errno_text(rc));
        return rc == -EINVAL ? EX_CONFIG : EX_UNAVAILABLE;
    }
    return 0;
}

int ops_run(const struct config *cfg, const struct redis_url *redis, const struct db_url *db) {
    const struct command *command = find(cfg->words[0]);
    struct ops o = {.cfg = cfg,
                    .redis_url = redis,
                    .db_url = db,
                    .args = cfg->words + 1,
                    .n_args = cfg->n_words - 1};
    if (!command)
        return unknown(cfg->words[0]);
    if (o.n_args < command->least || o.n_args > command->most) {
        log_refusal("%s takes %s arguments; usage: tierd %s%s%s", command->name,
                    o.n_args < command->least ? "more" : "fewer", command->name,
                    *command->words ? " " : "", command->words);
        return EX_USAGE;
    }
    queue_init(&o.queue, cfg->done_ttl_ms);
    ladder_init(&o.ladder);
    int status = open_all(&o, command->needs);
    if (status == 0)
        status = command->run(&o);
    ladder_release(&o.ladder);
    db_close(o.db);
    redis_close(o.redis);
    if (fflush(stdout) != 0 && status == 0)
        status = EX_IOERR;
    return status;
}
