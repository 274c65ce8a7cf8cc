#include <errno.h>
#include <inttypes.h>
#include <sysexits.h>

#include "base/log.h"
#include "job/watch.h"
#include "ops/ops.h"

enum { BATCH = 256 };

static int retry(struct ops *o, uint64_t cid) {
    static const char *const words[] = {
        [WATCH_RETRIED] = "is due now",
        [WATCH_NO_JOB] = "has nothing to be tried again",
        [WATCH_NOT_NOW] = "is being moved, or its move is done",
    };
    enum watch_retried how;
    int rc = watch_retry(&o->queue, o->redis, cid, &how);
    if (rc < 0)
        return ops_away(rc);
    ops_say(o, cid, how == WATCH_RETRIED, words[how]);
    return how == WATCH_RETRIED ? 0 : 1;
}

/* As many as were dead when it began, the oldest first: one that dies again goes to the end. One
 * that cannot be retried now is skipped. */
static int retry_all_dead(struct ops *o) {
    uint64_t cids[BATCH], done = 0, left = 0;
    int64_t all = watch_dead_count(o->redis);
    if (all < 0)
        return ops_away((int)all);
    while (done + left < (uint64_t)all) {
        int n = watch_dead(o->redis, cids, BATCH, left);
        if (n < 0)
            return ops_away(n);
        if (n == 0)
            break;
        for (int i = 0; i < n && done + left < (uint64_t)all; i++) {
            enum watch_retried how;
            int rc = watch_retry(&o->queue, o->redis, cids[i], &how);
            if (rc < 0)
                return ops_away(rc);
            if (how == WATCH_RETRIED)
                done++;
            else
                left++;
        }
    }
    if (o->cfg->json)
        printf("{\"retried\": %" PRIu64 ", \"left\": %" PRIu64 "}\n", done, left);
    else
        printf("%" PRIu64 " dead job%s %s due now%s\n", done, ops_s(done), done == 1 ? "is" : "are",
               left ? ", others could not be" : "");
    return left ? 1 : 0;
}

int ops_retry(struct ops *o) {
    if (o->cfg->all_dead == (o->n_args > 0)) {
        log_refusal("retry takes either cids or --all-dead");
        return EX_USAGE;
    }
    return o->cfg->all_dead ? retry_all_dead(o) : ops_each_cid(o, retry);
}
