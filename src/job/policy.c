#include "job/policy.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- options ---- */

/* "90%": 0..100. */
static int percent(struct str_view v, unsigned *out) {
    uint64_t n;
    if (v.len < 2 || v.ptr[v.len - 1] != '%')
        return -EINVAL;
    if (str_u64((struct str_view){v.ptr, v.len - 1}, 100, &n) < 0)
        return -EINVAL;
    *out = (unsigned)n;
    return 0;
}

/* The next item of "gold=80%,90%": its level ("" for all the others) and share. 1, 0 at the end, or
 * -EINVAL. */
static int next_share(const char **at, struct str_view *level, unsigned *share) {
    const char *from = *at;
    if (!*from)
        return 0;
    size_t len = strcspn(from, ",");
    struct str_view item = {from, len};
    const char *eq = memchr(from, '=', len);
    *level = (struct str_view){from, eq ? (size_t)(eq - from) : 0};
    if (eq)
        item = (struct str_view){eq + 1, len - level->len - 1};
    *at = from + len + (from[len] == ',' ? 1 : 0);
    if ((eq && level->len == 0) || (from[len] == ',' && !from[len + 1]))
        return -EINVAL;
    return percent(item, share) < 0 ? -EINVAL : 1;
}

int policy_init(struct policy *p, const char *demote_margin, int64_t min_residency_ms,
                const char *max_use, const char **option) {
    struct policy new = {.min_residency_ms = min_residency_ms, .max_use = max_use};
    *option = "demote-margin";
    if (demote_margin && percent(str_view(demote_margin), &new.demote_margin_percent) < 0)
        return -EINVAL;
    *option = "max-use";
    if (max_use && !*max_use)
        return -EINVAL;
    for (const char *at = max_use ? max_use : ""; *at;) {
        struct str_view level;
        unsigned share;
        if (next_share(&at, &level, &share) < 0)
            return -EINVAL;
    }
    *p = new;
    return 0;
}

unsigned policy_max_use(const struct policy *p, const char *level) {
    unsigned others = 100, share;
    struct str_view name;
    for (const char *at = p->max_use ? p->max_use : ""; next_share(&at, &name, &share) == 1;) {
        if (name.len == 0)
            others = share;
        else if (str_is(name, level))
            return share;
    }
    return others;
}

/* ---- decisions ---- */

unsigned level_use_percent(const struct level_use *u) {
    double all = (double)u->used_bytes + (double)u->free_bytes;
    if (!u->known || all <= 0)
        return 0;
    double share = 100.0 * (double)u->used_bytes / all;
    unsigned whole = (unsigned)share;
    return whole + (share > whole ? 1 : 0);
}

static bool full(const struct policy *p, const struct policy_question *q, const struct level *l) {
    unsigned most = policy_max_use(p, l->name);
    const struct level_use *u = q->use ? &q->use[l - q->ladder->levels] : NULL;
    return most < 100 && u && u->known && level_use_percent(u) > most;
}

/* Whether `count` is still within the margin below the threshold of the level it is at. */
static bool within_margin(const struct policy *p, uint64_t count, uint64_t threshold) {
    unsigned keep = 100 - p->demote_margin_percent;
    uint64_t least = threshold / 100 * keep + (threshold % 100 * keep + 99) / 100; /* rounded up */
    return count >= least;
}

struct policy_answer policy_decide(const struct policy *p, const struct policy_question *q) {
    const struct level *wanted = ladder_target(q->ladder, q->count);
    const struct level *here = ladder_find(q->ladder, str_view(q->level));
    struct policy_answer a = {wanted, wanted, POLICY_LADDER};
    if (!wanted) {
        a.rule = POLICY_NO_LEVELS;
        return a;
    }
    if (wanted == here) {
        a.rule = POLICY_STAYS;
        return a;
    }
    if (!here) /* it must leave a level that is gone, whatever else holds */
        return a;
    if (p->min_residency_ms > 0 && q->age_ms >= 0 && q->age_ms < p->min_residency_ms) {
        a.target = here;
        a.rule = POLICY_RESIDENCY;
    } else if (wanted < here && p->demote_margin_percent > 0 &&
               within_margin(p, q->count, here->min_count)) {
        a.target = here;
        a.rule = POLICY_MARGIN;
    } else {
        while (a.target > here && full(p, q, a.target)) {
            a.target--; /* the ladder ascends: the next level below */
            a.rule = POLICY_MAX_USE;
        }
    }
    return a;
}

/* ---- words ---- */

const char *policy_rule_name(enum policy_rule rule) {
    static const char *const names[] = {
        [POLICY_LADDER] = "ladder",        [POLICY_STAYS] = "stays",
        [POLICY_MARGIN] = "demote-margin", [POLICY_RESIDENCY] = "min-residency",
        [POLICY_MAX_USE] = "max-use",      [POLICY_NO_LEVELS] = "no-levels",
    };
    return names[rule];
}

void policy_sentence(const struct policy *p, const struct policy_question *q,
                     const struct policy_answer *a, char *out, size_t cap) {
    char age[STR_SPAN_BYTES], least[STR_SPAN_BYTES];
    const struct level *here = ladder_find(q->ladder, str_view(q->level));
    const char *wanted = a->wanted ? a->wanted->name : "";
    switch (a->rule) {
    case POLICY_NO_LEVELS:
        snprintf(out, cap, "the catalogue has no levels");
        break;
    case POLICY_STAYS:
        snprintf(out, cap, "%" PRIu64 " belongs in %s, where it is", q->count, wanted);
        break;
    case POLICY_LADDER:
        snprintf(out, cap, "%" PRIu64 " belongs in %s (from %" PRIu64 "), it is in %s", q->count,
                 wanted, a->wanted ? a->wanted->min_count : 0, q->level);
        break;
    case POLICY_MARGIN:
        snprintf(out, cap,
                 "stays in %s: %" PRIu64 " is not yet %u%% below its threshold %" PRIu64
                 " (demote-margin); the ladder says %s",
                 q->level, q->count, p->demote_margin_percent, here ? here->min_count : 0, wanted);
        break;
    case POLICY_RESIDENCY:
        snprintf(out, cap,
                 "stays in %s: it came %s ago, less than %s (min-residency); the ladder "
                 "says %s",
                 q->level, str_span((uint64_t)q->age_ms, age),
                 str_span((uint64_t)p->min_residency_ms, least), wanted);
        break;
    case POLICY_MAX_USE:
        snprintf(out, cap, "%s %s: %s is fuller than %u%% (max-use)",
                 a->target == here ? "stays in" : "falls to", a->target->name, wanted,
                 policy_max_use(p, wanted));
        break;
    }
}
