#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sysexits.h>

#include "base/log.h"
#include "job/watch.h"
#include "ops/ops.h"

/* Whether the gate is closed: one of the names in the reply. */
static bool closed(const redis_reply *gates, const char *gate) {
    for (size_t i = 0; i < redis_len(gates); i++)
        if (str_is(redis_text(redis_at(gates, i)), gate))
            return true;
    return false;
}

/* What was asked for makes sense: levels that there are, or that are closed, or --all. */
static int check(struct ops *o, const char *command, const redis_reply *gates) {
    if (o->cfg->all && o->n_args) {
        log_refusal("%s takes either levels or --all", command);
        return EX_USAGE;
    }
    for (size_t i = 0; i < o->n_args; i++)
        if (!ladder_find(&o->ladder, str_view(o->args[i])) && !closed(gates, o->args[i]))
            return ops_no_level(o, o->args[i]);
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
        printf("%s: %s, %" PRId64 " job%s waited\n", gate, what, jobs, ops_s((uint64_t)jobs));
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
    say(o, name, "paused; moves under way go on", -1);
    return 0;
}

/* Opens a gate; what was open already is said so. */
static int resume_gate(struct ops *o, const char *gate, bool was_closed) {
    const char *name = strcmp(gate, QUEUE_GATE_ALL) == 0 ? "all levels" : gate;
    int64_t jobs = queue_resume(&o->queue, o->redis, gate);
    int rc = jobs < 0 ? (int)jobs : was_closed ? watch_note(o->redis, 0, "resume", name) : 0;
    if (rc < 0)
        return ops_away(rc);
    say(o, name, was_closed ? "resumed" : "was not paused", was_closed ? jobs : -1);
    return 0;
}

int ops_pause(struct ops *o) {
    int status = check(o, "pause", NULL);
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

/* Whatever is paused, also a level that is in the table no more. The window, busy levels and routes
 * are no pauses: they open by themselves. */
static int resume_all(struct ops *o, const redis_reply *gates) {
    int status = 0;
    bool any = false;
    for (size_t i = 0; i < redis_len(gates) && status == 0; i++) {
        char gate[JOB_LEVEL_BYTES];
        if (str_copy(gate, sizeof gate, redis_text(redis_at(gates, i))) < 0 ||
            (gate[0] == '@' && strcmp(gate, QUEUE_GATE_ALL) != 0))
            continue;
        any = true;
        status = resume_gate(o, gate, true);
    }
    if (!any && !o->cfg->json)
        puts("nothing is paused");
    return status;
}

int ops_resume(struct ops *o) {
    redis_reply *gates;
    int rc = watch_gates(o->redis, &gates);
    if (rc < 0)
        return ops_away(rc);
    int status = check(o, "resume", gates);
    if (status == 0 && o->n_args == 0)
        status = resume_all(o, gates);
    for (size_t i = 0; i < o->n_args && status == 0; i++)
        status = resume_gate(o, o->args[i], closed(gates, o->args[i]));
    redis_reply_free(gates);
    return status;
}
