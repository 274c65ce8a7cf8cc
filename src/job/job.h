/*
 * job: one wanted move and its JSON (CONTRACT.md, section 3). Pure: bytes in, struct out, and back.
 *
 * A struct job owns its strings (fixed arrays), so that it can outlive the bytes it was read from.
 */
#ifndef TIERD_JOB_JOB_H
#define TIERD_JOB_JOB_H

#include <stdint.h>

#include "base/buf.h"
#include "base/str.h"

/* Bounds, each with its reason. */
enum {
    JOB_LEVEL_BYTES = 257,  /* varchar(64) in utf8mb4, sql/schema.sql, and a NUL */
    JOB_NAME_BYTES = 3073,  /* varchar(768) in utf8mb4: the longest that InnoDB keeps unique */
    JOB_PATH_BYTES = 4096,  /* PATH_MAX: what is longer cannot be opened */
    JOB_WORKER_BYTES = 160, /* host (64) . pid . nonce */
    JOB_ERROR_BYTES = 512,  /* one sentence */
    JOB_JSON_BYTES = 16384, /* all of the above, quotes escaped; longer ones are not ours */
    JOB_CID_DIGITS = 21,    /* 2^64-1 has 20 digits, and a NUL */
};

enum job_status { JOB_UPDATE, JOB_DONE, JOB_CONFLICT, JOB_DEAD };

struct job {
    uint64_t cid;
    uint64_t count;
    char target[JOB_LEVEL_BYTES];
    char db_level[JOB_LEVEL_BYTES];
    char filename[JOB_NAME_BYTES];
    char worker_id[JOB_WORKER_BYTES]; /* "" stands for null */
    enum job_status status;
    char error[JOB_ERROR_BYTES]; /* only with conflict and dead */
};

/* Why a stored JSON is not a job. */
enum job_parse { JOB_OK, JOB_NOT_JSON, JOB_BAD_FIELD, JOB_OTHER_CID };

/* One sentence for a person. */
const char *job_parse_text(enum job_parse why);

/* "update", "done", "conflict", "dead". */
const char *job_status_name(enum job_status status);

/* Reads a cid as the contract allows it: 1..2^64-1, decimal digits alone. 0, -EINVAL, -ERANGE. */
int job_cid_parse(struct str_view v, uint64_t *out);

/* Reads a count: 0..2^63-1. 0, -EINVAL, -ERANGE. */
int job_count_parse(struct str_view v, uint64_t *out);

/* Reads the JSON that stands under the key `cid`. `out` is written only with JOB_OK. Members may
 * come in any order and with any blanks, cid and count as strings or numbers; members that tierd
 * does not know are ignored. */
enum job_parse job_read(struct str_view json, uint64_t cid, struct job *out);

/* Appends the JSON of `job` to `b`, keys in the order of the contract. */
void job_write(struct buf *b, const struct job *job);

/*
 * Appends the JSON up to and with `"worker_id": `. What follows (worker, status, error) changes
 * with each step of a job and is put behind the head by the scripts in queue, which never decode
 * JSON.
 */
void job_write_head(struct buf *b, const struct job *job);

#endif
