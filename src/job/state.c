#include "job/state.h"

static const char *const names[JOB_STATES] = {
    [JOB_STATE_NONE] = "",
    [JOB_STATE_QUEUED] = STATE_QUEUED,
    [JOB_STATE_CLAIMED] = STATE_CLAIMED,
    [JOB_STATE_BACKOFF] = STATE_BACKOFF,
    [JOB_STATE_DONE] = STATE_DONE,
    [JOB_STATE_COMMITTED] = STATE_COMMITTED,
    [JOB_STATE_CANCELLED] = STATE_CANCELLED,
    [JOB_STATE_CONFLICT] = STATE_CONFLICT,
    [JOB_STATE_DEAD] = STATE_DEAD,
};

#define TO(state) (1U << JOB_STATE_##state)

/* By whom: see PROTOCOL.md. A post reaches every state but `done`, which is committed first. */
static const unsigned may[JOB_STATES] = {
    [JOB_STATE_NONE] = TO(QUEUED) | TO(CLAIMED) | TO(CANCELLED) | TO(DEAD),
    [JOB_STATE_QUEUED] = TO(CLAIMED) | TO(CANCELLED) | TO(NONE) | TO(DEAD),
    [JOB_STATE_CLAIMED] =
        TO(QUEUED) | TO(BACKOFF) | TO(DONE) | TO(CONFLICT) | TO(DEAD) | TO(CANCELLED) | TO(NONE),
    [JOB_STATE_BACKOFF] = TO(CLAIMED) | TO(QUEUED) | TO(CANCELLED) | TO(NONE),
    [JOB_STATE_DONE] = TO(COMMITTED) | TO(QUEUED) | TO(DEAD),
    [JOB_STATE_COMMITTED] = TO(NONE) | TO(QUEUED) | TO(CANCELLED) | TO(DEAD),
    [JOB_STATE_CANCELLED] = TO(NONE) | TO(QUEUED) | TO(CLAIMED) | TO(DEAD),
    [JOB_STATE_CONFLICT] = TO(QUEUED) | TO(CANCELLED) | TO(NONE),
    [JOB_STATE_DEAD] = TO(QUEUED) | TO(CANCELLED) | TO(NONE),
};

const char *job_state_name(enum job_state state) {
    return names[state];
}

enum job_state job_state_parse(struct str_view name) {
    for (int i = 0; i < JOB_STATES; i++)
        if (str_is(name, names[i]))
            return (enum job_state)i;
    return JOB_STATE_NONE;
}

enum job_phase job_state_phase(enum job_state state) {
    switch (state) {
    case JOB_STATE_DONE:
        return JOB_PHASE_COMMIT;
    case JOB_STATE_COMMITTED:
    case JOB_STATE_CANCELLED:
        return JOB_PHASE_RETIRE;
    case JOB_STATE_CONFLICT:
    case JOB_STATE_DEAD:
        return JOB_PHASE_ENDED;
    default:
        return JOB_PHASE_MOVE;
    }
}

bool job_state_may(enum job_state from, enum job_state to) {
    return from == to || (may[from] & 1U << to) != 0;
}
