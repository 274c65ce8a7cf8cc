#include "job/job.h"

#include <errno.h>
#include <string.h>
#include <yyjson.h>

static const char *const status_names[] = {"update", "done", "conflict", "dead"};

const char *job_status_name(enum job_status status) {
    return status_names[status];
}

const char *job_parse_text(enum job_parse why) {
    static const char *const texts[] = {"a job", "is not a JSON object",
                                        "lacks a member or has one out of range",
                                        "names another cid than its key"};
    return texts[why];
}

int job_cid_parse(struct str_view v, uint64_t *out) {
    uint64_t n;
    int rc = str_u64(v, UINT64_MAX, &n);
    if (rc < 0)
        return rc;
    if (n == 0)
        return -ERANGE;
    *out = n;
    return 0;
}

int job_count_parse(struct str_view v, uint64_t *out) {
    return str_u64(v, INT64_MAX, out);
}

/* The text of a string or of a number as it was written. */
static int member_text(yyjson_val *obj, const char *key, struct str_view *out) {
    yyjson_val *v = yyjson_obj_get(obj, key);
    if (yyjson_is_str(v))
        *out = (struct str_view){yyjson_get_str(v), yyjson_get_len(v)};
    else if (yyjson_is_raw(v))
        *out = (struct str_view){yyjson_get_raw(v), yyjson_get_len(v)};
    else
        return -EINVAL;
    return 0;
}

static int member_copy(yyjson_val *obj, const char *key, char *dst, size_t cap) {
    struct str_view v;
    yyjson_val *val = yyjson_obj_get(obj, key);
    if (!yyjson_is_str(val))
        return -EINVAL;
    v = (struct str_view){yyjson_get_str(val), yyjson_get_len(val)};
    return v.len == 0 ? -EINVAL : str_copy(dst, cap, v);
}

static int member_status(yyjson_val *obj, enum job_status *out) {
    struct str_view v;
    if (member_text(obj, "status", &v) < 0)
        return -EINVAL;
    for (size_t i = 0; i < sizeof status_names / sizeof *status_names; i++) {
        if (str_is(v, status_names[i])) {
            *out = (enum job_status)i;
            return 0;
        }
    }
    return -EINVAL;
}

/* worker_id: null, absent or a string. */
static int member_worker(yyjson_val *obj, char *dst, size_t cap) {
    yyjson_val *v = yyjson_obj_get(obj, "worker_id");
    if (!v || yyjson_is_null(v)) {
        dst[0] = '\0';
        return 0;
    }
    return member_copy(obj, "worker_id", dst, cap);
}

static enum job_parse read_members(yyjson_val *root, uint64_t cid, struct job *job) {
    struct str_view text;
    if (!yyjson_is_obj(root))
        return JOB_NOT_JSON;
    if (member_text(root, "cid", &text) < 0 || job_cid_parse(text, &job->cid) < 0)
        return JOB_BAD_FIELD;
    if (job->cid != cid)
        return JOB_OTHER_CID;
    if (member_text(root, "count", &text) < 0 || job_count_parse(text, &job->count) < 0 ||
        member_copy(root, "target", job->target, sizeof job->target) < 0 ||
        member_copy(root, "db_level", job->db_level, sizeof job->db_level) < 0 ||
        member_copy(root, "filename", job->filename, sizeof job->filename) < 0 ||
        member_worker(root, job->worker_id, sizeof job->worker_id) < 0 ||
        member_status(root, &job->status) < 0)
        return JOB_BAD_FIELD;
    if (member_copy(root, "error", job->error, sizeof job->error) < 0)
        job->error[0] = '\0';
    return JOB_OK;
}

enum job_parse job_read(struct str_view json, uint64_t cid, struct job *out) {
    if (json.len > JOB_JSON_BYTES)
        return JOB_NOT_JSON;
    yyjson_doc *doc = yyjson_read_opts((char *)(uintptr_t)json.ptr, json.len,
                                       YYJSON_READ_NUMBER_AS_RAW, NULL, NULL);
    if (!doc)
        return JOB_NOT_JSON;
    struct job job;
    enum job_parse why = read_members(yyjson_doc_get_root(doc), cid, &job);
    yyjson_doc_free(doc);
    if (why == JOB_OK)
        *out = job;
    return why;
}

static inline void add_member(struct buf *b, const char *key, const char *value) {
    buf_add_str(b, "\"");
    buf_add_str(b, key);
    buf_add_str(b, "\": ");
    buf_add_json(b, str_view(value));
    buf_add_str(b, ", ");
}

void job_write_head(struct buf *b, const struct job *job) {
    buf_add_str(b, "{\"cid\": \"");
    buf_add_u64(b, job->cid);
    buf_add_str(b, "\", \"count\": \"");
    buf_add_u64(b, job->count);
    buf_add_str(b, "\", ");
    add_member(b, "target", job->target);
    add_member(b, "db_level", job->db_level);
    add_member(b, "filename", job->filename);
    buf_add_str(b, "\"worker_id\": ");
}

void job_write(struct buf *b, const struct job *job) {
    job_write_head(b, job);
    if (job->worker_id[0])
        buf_add_json(b, str_view(job->worker_id));
    else
        buf_add_str(b, "null");
    buf_add_str(b, ", \"status\": \"");
    buf_add_str(b, status_names[job->status]);
    buf_add_str(b, "\"");
    if (job->error[0]) {
        buf_add_str(b, ", \"error\": ");
        buf_add_json(b, str_view(job->error));
    }
    buf_add(b, "}", 1);
}
