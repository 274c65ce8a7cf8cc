/* The stored JSON: what is read must come out again, as itself. */
#include <assert.h>
#include <string.h>

#include "job/job.h"

int LLVMFuzzerTestOneInput(const char *bytes, size_t len);

int LLVMFuzzerTestOneInput(const char *bytes, size_t len) {
    struct job job, again;
    if (job_read((struct str_view){bytes, len}, 3, &job) != JOB_OK)
        return 0;
    struct buf b;
    buf_init(&b, 1 << 20);
    job_write(&b, &job);
    assert(!b.failed);
    if (b.len <= JOB_JSON_BYTES) {
        assert(job_read((struct str_view){b.data, b.len}, 3, &again) == JOB_OK);
        assert(strcmp(job.filename, again.filename) == 0 && strcmp(job.target, again.target) == 0);
    }
    buf_release(&b);
    return 0;
}
