#include <errno.h>
#include <inttypes.h>
#include <sysexits.h>

#include "base/log.h"
#include "job/watch.h"
#include "ops/ops.h"

/* What was asked for makes sense: levels that there are, or --all. */
static int check(struct ops *o, const char *command) {
    if (o->cfg->all && o->n_args) {
        log_refusal("%s takes either levels or --all", command);
        return EX_USAGE;
    }
    for (size_t i = 0; i < o->n_args; i++)
        if (!ladder_find(&o->ladder, str_view(o->args[i]))) {
            log_refusal("there is no level '%.64s' in the catalogue", o->args[i]);
            return EX_USAGE;
        }
    return 0;
}

static void say(const struct ops *o, const char *gate, const char *what, int64_t jobs) {
    struct buf b;
    buf_init(&b, 4096);
    buf_addf(&b, "{\"gate\": ");
    buf_add_json(&b, str_view(gate));
    buf_addf(&b, ", \"now\": \"%s\"", what);
    if (jobs >= 0)
        buf_addf(&b, ", \"jobs\": %" PRId64, jobs);
    if (o->cfg->json)
        printf("%.*s}\n", (int)b.len, b.data);
    else if (jobs >= 0)
        printf("%s: %s, %" PRId64 " jobs waited\n", gate, what, jobs);
    else
        printf("%s: %s\n", gate, what);
    buf_release(&b);
}

static int pause_gate(struct ops *o, const char *gate, const char *name) {
    int rc = queue_pause(&o->queue, o->redis, gate, 0);
    if (rc == 0)
        rc = watch_note(o->redis, 0, "pause", name);
    if (rc < 0)
        return ops_away(rc);
    say(o, name, "paused; moves under way are finished", -1);
    return 0;
}

static int resume_gate(struct ops *o, const char *gate, const char *name) {
    int64_t jobs = queue_resume(&o->queue, o->redis, gate);
    int rc = jobs < 0 ? (int)jobs : watch_note(o->redis, 0, "resume", name);
    if (rc < 0)
        return ops_away(rc);
    say(o, name, "resumed", jobs);
    return 0;
}

int ops_pause(struct ops *o) {
    int status = check(o, "pause");
    if (status)
        return status;
    if (!o->cfg->all && o->n_args == 0) {
        log_refusal("pause takes levels or --all");
        return EX_USAGE;
    }
    if (o->cfg->all)
        return pause_gate(o, QUEUE_GATE_ALL, "all levels");
    for (size_t i = 0; i < o->n_args && status == 0; i++)
        status = pause_gate(o, o->args[i], o->args[i]);
    return status;
}

/* Without a word, or with --all: whatever is paused. */
int ops_resume(struct ops *o) {
    int status = check(o, "resume");
    if (status)
        return status;
    if (o->n_args == 0)
        status = resume_gate(o, QUEUE_GATE_ALL, "all levels");
    for (size_t i = 0; i < o->n_args && status == 0; i++)
        status = resume_gate(o, o->args[i], o->args[i]);
    for (size_t i = 0; i < o->ladder.len && o->n_args == 0 && status == 0; i++)
        status = resume_gate(o, o->ladder.levels[i].name, o->ladder.levels[i].name);
    return status;
}
