/*
 * report: the JSON of `GET /status` and `tierd status --json`, and of `GET /jobs/<cid>` and `tierd
 * explain --json`: one writer each, so that the API, the page and the commands say the same. Pure:
 * replies of job/watch and rows in, text out.
 */
#ifndef TIERD_JOB_REPORT_H
#define TIERD_JOB_REPORT_H

#include "base/buf.h"
#include "job/catalog.h"
#include "job/keys.h"
#include "job/ladder.h"
#include "job/policy.h"
#include "store/redis.h"

enum { REPORT_BYTES = 192 * 1024 }; /* what one answer of the API may have */

/* Reads the "used free" of the levels from a status or explain reply (NULL: none is known) into
 * `use`, one for each level of the ladder. */
void report_use(const redis_reply *use_reply, const struct ladder *ladder, struct level_use *use);

/* The use within a status reply, for report_use. */
const redis_reply *report_use_of(const redis_reply *watched);

/* Whether a level is full (1 or 0), and how many jobs found no room in it for themselves alone. */
void report_room(const redis_reply *watched, const char *level, uint64_t *full, uint64_t *jobs);

struct status_facts {
    const redis_reply *watched;     /* of watch_status; NULL: Redis is away */
    bool db_ok;                     /* else the ladder may be empty or old */
    const struct ladder *ladder;    /* never NULL */
    const uint64_t *files;          /* of each level, by the catalogue; NULL: not known */
    const struct keys_amiss *amiss; /* in Redis; NULL: not known */
};

/* Appends the object; b->failed when it did not fit. */
void report_status(struct buf *b, const struct status_facts *f);

/* The parts of a status reply that /metrics shows as well. */
struct status_numbers {
    uint64_t running, alive, ready, later, parked, dead, conflict, age_ms;
    uint64_t moves, bytes, took_ms, retried, deaths, conflicts;
};
void report_numbers(const redis_reply *watched, struct status_numbers *out);

/* How many hosts say of the level that they cannot use it. */
uint64_t report_troubles(const redis_reply *watched, const char *level);

/* A counter of tierd:stats, 0 when it is not there. */
uint64_t report_stat(const redis_reply *watched, const char *name);

struct job_facts {
    uint64_t cid;
    const redis_reply *watched; /* of watch_explain */
    const struct ladder *ladder;
    const struct content *row; /* NULL: not in the catalogue */
    const struct policy *policy;
    const struct keys_amiss *amiss; /* in Redis; NULL: not known */
};

void report_job(struct buf *b, const struct job_facts *f);

#endif
