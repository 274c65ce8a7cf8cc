#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sysexits.h>

#include "base/log.h"
#include "job/watch.h"
#include "ops/ops.h"
#include "queue/keys.h"

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

/* What people call a gate; programs get the name that status --json has too. */
static const char *spoken(const char *gate) {
    return strcmp(gate, GATE_ALL) == 0 ? "all levels" : gate;
}

/* The state of a gate, for programs `now` and for people `words`; `jobs` waited, -1: not said. */
static void say(const struct ops *o, const char *gate, const char *now, const char *words,
                int64_t jobs) {
    if (!o->cfg->json) {
        printf("%s: %s", spoken(gate), words);
        if (jobs >= 0)
            printf(", %" PRId64 " job%s waited", jobs, ops_s((uint64_t)jobs));
        putchar('\n');
        return;
    }
    struct buf b;
    buf_init(&b, 4096);
    buf_addf(&b, "{\"gate\": ");
    buf_add_json(&b, str_view(gate));
    buf_addf(&b, ", \"now\": \"%s\"", now);
    if (jobs >= 0)
        buf_addf(&b, ", \"jobs\": %" PRId64, jobs);
    printf("%.*s}\n", (int)b.len, b.data ? b.data : "");
    buf_release(&b);
}

static int pause_gate(struct ops *o, const char *gate) {
    int rc = queue_pause(&o->queue, o->redis, gate, 0);
    if (rc == 0)
        rc = watch_note(o->redis, 0, "pause", spoken(gate));
    if (rc < 0)
        return ops_away(rc);
    say(o, gate, "paused", "paused; moves under way go on", -1);
    return 0;
}

/* Opens a gate; what was open already is said so. */
static int resume_gate(struct ops *o, const char *gate, bool was_closed) {
    int64_t jobs = queue_resume(&o->queue, o->redis, gate);
    int rc = jobs < 0 ? (int)jobs : 0;
    if (rc == 0 && was_closed)
        rc = watch_note(o->redis, 0, "resume", spoken(gate));
    if (rc < 0)
        return ops_away(rc);
    if (was_closed)
        say(o, gate, "resumed", "resumed", jobs);
    else
        say(o, gate, "open", "was not paused", -1);
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
        return pause_gate(o, GATE_ALL);
    for (size_t i = 0; i < o->n_args && status == 0; i++)
        status = pause_gate(o, o->args[i]);
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
            (gate[0] == '@' && strcmp(gate, GATE_ALL) != 0))
            continue;
        any = true;
        status = resume_gate(o, gate, true);
    }
    if (!any && status == 0 && o->cfg->json)
        say(o, GATE_ALL, "open", "", -1);
    else if (!any && status == 0)
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
