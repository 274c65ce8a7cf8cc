/*
 * policy: where a content is to go, and which rule said so. Pure: the ladder alone decides unless
 * options hold a move back. The API, `tierd explain` and `tierd post --dry-run` all ask here, so
 * that they can never disagree.
 *
 *   policy_init once -> policy_decide for each count -> policy_sentence for people
 */
#ifndef TIERD_JOB_POLICY_H
#define TIERD_JOB_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "job/ladder.h"

/* All off by default. `max_use` is borrowed. */
struct policy {
    unsigned demote_margin_percent; /* 0: off */
    int64_t min_residency_ms;       /* 0: off */
    const char *max_use;            /* "90%" or "gold=80%,90%"; NULL: off */
};

/* Reads the options: `demote_margin` is "10%". 0; -EINVAL: `*option` names the one that is wrong.
 */
int policy_init(struct policy *p, const char *demote_margin, int64_t min_residency_ms,
                const char *max_use, const char **option);

/* What a level holds, of what its users may have: as df(1) counts. */
struct level_use {
    bool known;
    uint64_t used_bytes, free_bytes;
};

/* The share in use, in percent, rounded up; 0 when it is not known. */
unsigned level_use_percent(const struct level_use *u);

/* From which share on nothing is promoted into `level`, in percent; 100: no bound. */
unsigned policy_max_use(const struct policy *p, const char *level);

struct policy_question {
    const struct ladder *ladder;
    const char *level; /* where the content is */
    uint64_t count;
    int64_t age_ms;              /* since its last move, -1: not known */
    const struct level_use *use; /* of each level of the ladder, or NULL */
};

enum policy_rule {
    POLICY_LADDER,    /* it moves as the ladder says */
    POLICY_STAYS,     /* it is where the ladder wants it */
    POLICY_MARGIN,    /* a demotion is held back by demote-margin */
    POLICY_RESIDENCY, /* any move is held back by min-residency */
    POLICY_MAX_USE,   /* a promotion goes to a lower level, or nowhere, by max-use */
    POLICY_NO_LEVELS, /* the ladder is empty: target is NULL */
};

struct policy_answer {
    const struct level *target; /* of the ladder; valid as long as it is */
    const struct level *wanted; /* what the ladder alone would say */
    enum policy_rule rule;
};

struct policy_answer policy_decide(const struct policy *p, const struct policy_question *q);

/* "ladder", "stays", "demote-margin", "min-residency", "max-use", "no-levels". */
const char *policy_rule_name(enum policy_rule rule);

/* One sentence of the answer to `q` for a person. */
void policy_sentence(const struct policy *p, const struct policy_question *q,
                     const struct policy_answer *a, char *out, size_t cap);

#endif
