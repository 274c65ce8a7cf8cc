/*
 * state: what a job is at, as the index in Redis has it (PROTOCOL.md, The states of a job), and
 * what is to be done next. Pure. The scripts in queue make the transitions; this is what they may
 * make.
 */
#ifndef TIERD_JOB_STATE_H
#define TIERD_JOB_STATE_H

#include <stdbool.h>

#include "base/str.h"

/* Their names, for the scripts as well (queue/pack.pl). */
#define STATE_QUEUED    "queued"
#define STATE_CLAIMED   "claimed"
#define STATE_BACKOFF   "backoff"
#define STATE_DONE      "done"
#define STATE_COMMITTED "committed"
#define STATE_CANCELLED "cancelled"
#define STATE_CONFLICT  "conflict"
#define STATE_DEAD      "dead"

enum job_state {
    JOB_STATE_NONE, /* only a JSON stands there, which another program wrote */
    JOB_STATE_QUEUED,
    JOB_STATE_CLAIMED,
    JOB_STATE_BACKOFF,
    JOB_STATE_DONE,
    JOB_STATE_COMMITTED,
    JOB_STATE_CANCELLED,
    JOB_STATE_CONFLICT,
    JOB_STATE_DEAD,
    JOB_STATES
};

/* What a worker that claimed it has to do. */
enum job_phase {
    JOB_PHASE_MOVE,   /* look at the row, then move the file */
    JOB_PHASE_COMMIT, /* the file is at its target: commit */
    JOB_PHASE_RETIRE, /* the row says where the content is: retire what is spare */
    JOB_PHASE_ENDED,  /* nothing until a post or an operator says so; spare copies still go */
};

/* "" for JOB_STATE_NONE. */
const char *job_state_name(enum job_state state);

/* The state of that name; JOB_STATE_NONE for "" and for what is none. */
enum job_state job_state_parse(struct str_view name);

enum job_phase job_state_phase(enum job_state state);

/* Whether a job may go from one state to the other in one step; to itself it always may. Finishing
 * is going to JOB_STATE_NONE. */
bool job_state_may(enum job_state from, enum job_state to);

#endif
