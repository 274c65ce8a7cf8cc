/*
 * ops: the operator's commands, one file each: `tierd COMMAND [ARGUMENT ...]`. They talk to the
 * same Redis and database as the roles and end when they have answered.
 *
 * Exit statuses (sysexits.h where it has one): 0 done; 1 the answer is "no" (something is wrong,
 * not found, not done); 64 wrong words; 69 Redis, the database or the API is away; 74 the answer
 * could not be written; 78 wrong configuration.
 */
#ifndef TIERD_OPS_OPS_H
#define TIERD_OPS_OPS_H

#include <stdio.h>

#include "base/config.h"
#include "job/keys.h"
#include "job/ladder.h"
#include "job/policy.h"
#include "job/queue.h"
#include "store/db.h"
#include "store/redis.h"

/* What a command stands on. Connections are opened by ops_need, as far as a command asks. */
struct ops {
    const struct config *cfg;
    const struct redis_url *redis_url;
    const struct db_url *db_url;
    const char *const *args; /* behind the command's name */
    size_t n_args;
    struct redis *redis;
    struct db *db;
    struct name_lookup redis_names, db_names;
    struct queue queue;
    struct policy policy;
    struct ladder ladder; /* the levels, with OPS_DB */
    bool hangs[LADDER_MAX_LEVELS];
};

enum { OPS_REDIS = 1, OPS_DB = 2 };

/* Runs cfg->words. The exit status of the process. */
int ops_run(const struct config *cfg, const struct redis_url *redis, const struct db_url *db);

/* Prints the commands for --help. */
void ops_help(FILE *out);

/* ---- for the commands ---- */

/* Opens what `needs` names; 0, or the exit status when it is away, with a sentence on stderr. */
int ops_need(struct ops *o, unsigned needs);

/* A server is away: says so; the exit status. */
int ops_away(int rc);

/* Whether `amiss` could be had: what is amiss in Redis, or its own words for why it refuses to say.
 */
bool ops_amiss(struct ops *o, struct keys_amiss *amiss);

/* The sentence for a text that is no cid, or no count: what it is and what is allowed. */
enum { OPS_WHY_BYTES = 192 };
void ops_no_cid(char out[OPS_WHY_BYTES], struct str_view text);
void ops_no_count(char out[OPS_WHY_BYTES], struct str_view text);

#define OPS_HANGS_TEXT "its file system does not answer"

/* There is no such level: says so, and which there are; the exit status. */
int ops_no_level(const struct ops *o, const char *name);

/* Looks which levels' file systems answer; the others must not be touched, for who does may wait
 * for ever. */
void ops_look_at_levels(struct ops *o);

/* Judges which levels overlap: all that answer and can be opened by their paths, whatever markers
 * they have. After ops_look_at_levels. */
struct overlaps;
void ops_overlaps(const struct ops *o, struct overlaps *found);

/* Says so of these two levels of the ladder, if they do. Whether they do. */
bool ops_say_overlap(const struct ops *o, const struct overlaps *found, size_t a, size_t b);

/* Runs `one` for each argument, which must be a cid; the worst of their exit statuses. */
int ops_each_cid(struct ops *o, int (*one)(struct ops *o, uint64_t cid));

/* Says of a cid what became of it, as a line or as a JSON object. */
void ops_say(const struct ops *o, uint64_t cid, bool done, const char *sentence);

/* "1 job", "2 jobs": the ending. */
const char *ops_s(uint64_t n);

/* A text or a whole number of a report; "" or 0 when it is not there. */
struct yyjson_val;
const char *ops_text(struct yyjson_val *object, const char *key);
uint64_t ops_number(struct yyjson_val *object, const char *key);

/* Prints an event of a report as one line, with or without whose it is. */
void ops_print_event(struct yyjson_val *event, bool with_cid);

/* ---- the commands; each gives the exit status ---- */

int ops_init_level(struct ops *o);
int ops_status(struct ops *o);
int ops_explain(struct ops *o);
int ops_post(struct ops *o);
int ops_retry(struct ops *o);
int ops_cancel(struct ops *o);
int ops_pause(struct ops *o);
int ops_resume(struct ops *o);
int ops_check(struct ops *o);

#endif
