#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "job/catalog.h"
#include "job/watch.h"
#include "ops/ops.h"

enum { TRIES = 5 }; /* it may change while we look; five times in a row it does not */

/* The job as it stands when the content is to stay where its row says. */
static int ask(struct ops *o, const struct content *row, enum watch_cancelled *how) {
    char json[JOB_JSON_BYTES];
    struct job job = {.cid = row->cid};
    int rc = watch_json(o->redis, row->cid, json, sizeof json);
    if (rc < 0)
        return rc;
    if (job_read(str_view(json), row->cid, &job) != JOB_OK) {
        *how = WATCH_NOTHING;
        return 0;
    }
    snprintf(job.target, sizeof job.target, "%s", row->level);
    snprintf(job.db_level, sizeof job.db_level, "%s", row->level);
    snprintf(job.filename, sizeof job.filename, "%s", row->filename);
    return watch_cancel(&o->queue, o->redis, &job, row->seen, str_view(json), how);
}

static int cancel(struct ops *o, uint64_t cid) {
    static const char *const words[] = {
        [WATCH_CANCELLED] = "is cancelled, it stays where it is",
        [WATCH_STOPS] = "is being moved; the worker stops and drops its copy",
        [WATCH_TOO_LATE] = "cannot be cancelled: its move is done",
        [WATCH_NOTHING] = "has nothing to be cancelled",
        [WATCH_CHANGED] = "keeps changing, try again",
    };
    struct content row;
    enum watch_cancelled how = WATCH_CHANGED;
    for (int i = 0; i < TRIES && how == WATCH_CHANGED; i++) {
        int rc = catalog_content(o->db, cid, &row);
        if (rc == 0) {
            ops_say(o, cid, false, "is not in the catalogue");
            return 1;
        }
        if (rc > 0)
            rc = ask(o, &row, &how);
        if (rc < 0)
            return ops_away(rc);
    }
    bool done = how == WATCH_CANCELLED || how == WATCH_STOPS;
    ops_say(o, cid, done, words[how]);
    return done ? 0 : 1;
}

int ops_cancel(struct ops *o) {
    return ops_each_cid(o, cancel);
}
