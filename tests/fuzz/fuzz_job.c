/* The stored JSON: what is read must come out again, as itself. */
#include <assert.h>
#include <string.h>

#include "job/job.h"

enum { CID = 3 }; /* the key under which all of it stands */

int LLVMFuzzerTestOneInput(const char *bytes, size_t len);

static void same(const struct job *a, const struct job *b) {
    assert(a->cid == b->cid && a->count == b->count && a->status == b->status);
    assert(strcmp(a->target, b->target) == 0 && strcmp(a->db_level, b->db_level) == 0);
    assert(strcmp(a->filename, b->filename) == 0 && strcmp(a->worker_id, b->worker_id) == 0);
    assert(strcmp(a->error, b->error) == 0);
}

int LLVMFuzzerTestOneInput(const char *bytes, size_t len) {
    struct job job, again;
    enum job_parse why = job_read((struct str_view){bytes, len}, CID, &job);
    assert(job_parse_text(why)[0]);
    if (why != JOB_OK)
        return 0;
    struct buf b;
    buf_init(&b, 1 << 20);
    job_write(&b, &job);
    assert(!b.failed);
    if (b.len <= JOB_JSON_BYTES) {
        assert(job_read((struct str_view){b.data, b.len}, CID, &again) == JOB_OK);
        same(&job, &again);
    }
    buf_release(&b);
    return 0;
}
