#include "ops/ops.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sysexits.h>
#include <yyjson.h>

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
    {"status", "", 0, 0, 0, ops_status,
     "levels, jobs, moves under way, workers, errors; --watch, --json"},
    {"explain", "CID ...", 1, CONFIG_WORDS_MAX, OPS_REDIS | OPS_DB, ops_explain,
     "where a content is, where it is to go, and why it did (not) move"},
    {"post", "CID COUNT | -", 1, 2, 0, ops_post,
     "post a count, or lines 'cid count' from stdin; --dry-run"},
    {"retry", "CID ... | --all-dead", 0, CONFIG_WORDS_MAX, OPS_REDIS, ops_retry,
     "start dead, conflicting or waiting jobs anew"},
    {"cancel", "CID ...", 1, CONFIG_WORDS_MAX, OPS_REDIS | OPS_DB, ops_cancel,
     "let a content stay where it is"},
    {"pause", "LEVEL ... | --all", 0, CONFIG_WORDS_MAX, OPS_REDIS | OPS_DB, ops_pause,
     "start no moves into a level, or none at all"},
    {"resume", "[LEVEL ...]", 0, CONFIG_WORDS_MAX, OPS_REDIS | OPS_DB, ops_resume,
     "end pauses: of these levels, or all"},
    {"check", "", 0, 0, OPS_REDIS | OPS_DB, ops_check,
     "compare the catalogue with the disks; --repair mends what is safe to mend"},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

void ops_help(FILE *out) {
    fputs("\ncommands:\n\n", out);
    for (size_t i = 0; i < N_COMMANDS; i++) {
        char usage[64];
        snprintf(usage, sizeof usage, "%s %s", commands[i].name, commands[i].words);
        fprintf(out, "  %-28s %s\n", usage, commands[i].help);
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

int ops_away(int rc) {
    log_refusal("a server is away or refuses: %s", log_errno_text(rc));
    return EX_UNAVAILABLE;
}

/* At most so much of what somebody typed is repeated. */
static int shown(struct str_view text) {
    return text.len < 64 ? (int)text.len : 64;
}

void ops_no_cid(char out[OPS_WHY_BYTES], struct str_view text) {
    snprintf(out, OPS_WHY_BYTES,
             "'%.*s' is not a cid: a whole number from 1 to %" PRIu64 ", digits alone", shown(text),
             text.ptr, UINT64_MAX);
}

void ops_no_count(char out[OPS_WHY_BYTES], struct str_view text) {
    snprintf(out, OPS_WHY_BYTES,
             "'%.*s' is not a count: a whole number from 0 to %" PRId64 ", digits alone",
             shown(text), text.ptr, INT64_MAX);
}

int ops_no_level(const struct ops *o, const char *name) {
    struct buf b;
    buf_init(&b, 1024); /* more names than that nobody reads */
    ladder_add_names(&o->ladder, &b);
    log_refusal("there is no level '%.64s' in the catalogue; it has %.*s", name, (int)b.len,
                b.data ? b.data : "");
    buf_release(&b);
    return EX_USAGE;
}

int ops_each_cid(struct ops *o, int (*one)(struct ops *o, uint64_t cid)) {
    int worst = 0;
    uint64_t cid;
    char why[OPS_WHY_BYTES];
    for (size_t i = 0; i < o->n_args; i++)
        if (job_cid_parse(str_view(o->args[i]), &cid) < 0) {
            ops_no_cid(why, str_view(o->args[i]));
            log_refusal("%s", why);
            return EX_USAGE;
        }
    for (size_t i = 0; i < o->n_args; i++) {
        (void)job_cid_parse(str_view(o->args[i]), &cid);
        int status = one(o, cid);
        worst = status > worst ? status : worst;
    }
    return worst;
}

bool ops_amiss(struct ops *o, struct keys_amiss *amiss) {
    int rc = o->redis ? keys_look(&o->queue, o->redis, amiss) : -ENOTCONN;
    if (rc == -EPROTO)
        keys_only(amiss, redis_words(o->redis));
    return rc == 0 || rc == -EPROTO;
}

/* A command that could not be done: what stands in its way in Redis, if that is it. */
static void say_amiss(struct ops *o) {
    struct keys_amiss amiss;
    if (!ops_amiss(o, &amiss))
        return;
    for (size_t i = 0; i < amiss.n; i++)
        if (amiss.each[i].stops)
            log_refusal("redis is not as tierd needs it: %s", amiss.each[i].text);
}

void ops_say(const struct ops *o, uint64_t cid, bool done, const char *sentence) {
    if (o->cfg->json)
        printf("{\"cid\": \"%" PRIu64 "\", \"done\": %s, \"text\": \"%s\"}\n", cid,
               done ? "true" : "false", sentence);
    else
        printf("%" PRIu64 " %s\n", cid, sentence);
}

const char *ops_s(uint64_t n) {
    return n == 1 ? "" : "s";
}

const char *ops_text(yyjson_val *object, const char *key) {
    const char *s = yyjson_get_str(yyjson_obj_get(object, key));
    return s ? s : "";
}

uint64_t ops_number(yyjson_val *object, const char *key) {
    return yyjson_get_uint(yyjson_obj_get(object, key));
}

static void warn(const char *why) {
    log_refusal("%s", why);
}

/* "redis refuses us: WRONGPASS ... (host)"; who is let in nowhere has to mend the settings. */
static int cannot_use(const char *server, const struct server_fault *fault, const char *where) {
    char text[FAULT_TEXT_BYTES];
    fault_text(fault, true, text);
    log_refusal("%s %s (%s)", server, text, where);
    return fault->trouble == SERVER_REFUSES || fault->trouble == SERVER_UNTRUSTED ? EX_CONFIG
                                                                                  : EX_UNAVAILABLE;
}

int ops_need(struct ops *o, unsigned needs) {
    struct server_fault fault;
    int rc;
    if ((needs & OPS_REDIS) &&
        redis_open(o->redis_url, &o->redis_names, CALL_TIMEOUT_MS, &o->redis, &fault) < 0)
        return cannot_use("redis", &fault, o->redis_url->host);
    if ((needs & OPS_DB) && db_open(o->db_url, &o->db_names, CALL_TIMEOUT_MS, &o->db, &fault) < 0)
        return cannot_use("the database", &fault,
                          o->db_url->socket[0] ? o->db_url->socket : o->db_url->host);
    if ((needs & OPS_DB) && (rc = catalog_levels(o->db, &o->ladder)) < 0) {
        log_refusal("the level table cannot be used: %s",
                    rc == -EINVAL ? log_errno_text(rc) : db_error(o->db));
        return rc == -EINVAL ? EX_CONFIG : EX_UNAVAILABLE;
    }
    if (needs & OPS_DB)
        ladder_check_names(&o->ladder, o->cfg, warn);
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
    const char *option; /* checked before, with every other */
    (void)policy_init(&o.policy, cfg->demote_margin, cfg->min_residency_ms, cfg->max_use, &option);
    int status = ops_need(&o, command->needs);
    if (status == 0)
        status = command->run(&o);
    if (status == EX_UNAVAILABLE && o.redis && redis_usable(o.redis))
        say_amiss(&o);
    ladder_release(&o.ladder);
    db_close(o.db);
    redis_close(o.redis);
    name_lookup_release(&o.db_names);
    name_lookup_release(&o.redis_names);
    if (fflush(stdout) != 0 && status == 0)
        status = EX_IOERR;
    return status;
}
