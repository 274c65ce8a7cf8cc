#include "worker/looker.h"

#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sysexits.h>

#include "base/clock.h"
#include "base/log.h"
#include "job/watch.h"
#include "worker/child.h"
#include "worker/levels.h"

enum {
    LOOK_MS = 1000,   /* between two looks: until then nobody knows of a level that hangs */
    TELL_MS = 5000,   /* between two words of what was seen, unless it is new */
    HOLDS_MS = 30000, /* it is believed for so long, if we say no more */
};

struct looker {
    struct child child;
    struct levels levels;
    struct watch_look look;
    struct buf told_well; /* as it was told last */
    int64_t told_ms;      /* clock_mono_ms of that, 0: never */
};

/* Says in Redis what was seen; when other levels are well than before, it wakes who may wait for
 * one. */
static void tell(struct looker *k, bool is_new) {
    struct child *c = &k->child;
    if (!c->redis || k->look.use.failed || k->look.trouble.failed || k->look.well.failed)
        return;
    int rc = child_redis_rc(c, watch_looked(&c->queue, c->redis, c->id, HOLDS_MS, &k->look));
    if (rc == 0 && is_new)
        rc = child_redis_rc(c, queue_wake(c->redis));
    if (rc < 0)
        return;
    buf_clear(&k->told_well);
    buf_add(&k->told_well, k->look.well.data, k->look.well.len);
}

/* The table may be an old one, or none, while the servers are away: what is known is looked at.
 * True as of levels_look. */
static bool look(struct looker *k) {
    struct child *c = &k->child;
    bool due = !k->told_ms || clock_mono_ms() - k->told_ms >= TELL_MS;
    if (due && child_connect(c) == 0)
        (void)levels_read(&k->levels, false);
    buf_clear(&k->look.use);
    buf_clear(&k->look.trouble);
    buf_clear(&k->look.well);
    if (!levels_look(&k->levels, &k->look))
        return false;
    const struct buf *now = &k->look.well, *told = &k->told_well;
    bool is_new =
        now->len != told->len || (now->len && memcmp(now->data, told->data, now->len) != 0);
    if (due || is_new)
        tell(k, is_new);
    if (due)
        k->told_ms = clock_mono_ms();
    return true;
}

/* The level that we were given up for is back. */
static void tell_back(struct child *c) {
    log_event(LOG_INFO, "the file system of a level answers again", LOG_STR("worker_id", c->id));
    if (child_open_redis(c) == 0)
        child_redis_rc(c, queue_wake(c->redis));
}

int looker_run(const struct worker_options *options) {
    struct looker *k = calloc(1, sizeof *k);
    if (!k)
        return EX_OSERR;
    struct child *c = &k->child;
    prctl(PR_SET_NAME, "tierd-looker");
    int rc = child_init(c, options);
    levels_init(&k->levels, c);
    buf_init(&k->look.use, LEVELS_LOOK_BYTES);
    buf_init(&k->look.trouble, LEVELS_LOOK_BYTES);
    buf_init(&k->look.well, LEVELS_LOOK_BYTES);
    buf_init(&k->told_well, LEVELS_LOOK_BYTES);
    if (options->ready)
        options->ready(options->ready_ctx);
    bool ours = true;
    while (rc == 0 && ours && !child_stopping(c)) {
        ours = look(k);
        if (ours)
            child_nap(c, LOOK_MS);
    }
    if (!ours)
        tell_back(c);
    buf_release(&k->look.use);
    buf_release(&k->look.trouble);
    buf_release(&k->look.well);
    buf_release(&k->told_well);
    levels_release(&k->levels);
    child_release(c);
    free(k);
    return rc < 0 ? EX_OSERR : 0;
}
