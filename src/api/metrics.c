#include "api/metrics.h"

#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

/* Each slot begins a cache line, so that processes do not slow each other down. */
enum { LINE_BYTES = 64 };

struct padded {
    _Alignas(LINE_BYTES) struct metrics_slot slot;
};

struct metrics {
    size_t bytes, n;
    _Alignas(LINE_BYTES) struct padded slots[];
};

struct metrics *metrics_new(size_t n) {
    size_t bytes = sizeof(struct metrics) + n * sizeof(struct padded);
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    struct metrics *m = p;
    m->bytes = bytes;
    m->n = n;
    return m;
}

void metrics_free(struct metrics *m) {
    if (m)
        munmap(m, m->bytes);
}

struct metrics_slot *metrics_slot(struct metrics *m, size_t i) {
    return &m->slots[i].slot;
}

void metrics_add(struct metrics_slot *s, enum metric which, uint64_t n) {
    __atomic_fetch_add(&s->n[which], n, __ATOMIC_RELAXED);
}

void metrics_decided(struct metrics_slot *s, const struct policy_question *q,
                     const struct policy_answer *a) {
    static const enum metric by_rule[] = {
        [POLICY_STAYS] = METRIC_STAYS,
        [POLICY_MARGIN] = METRIC_MARGIN,
        [POLICY_RESIDENCY] = METRIC_RESIDENCY,
        [POLICY_MAX_USE] = METRIC_MAX_USE,
    };
    const struct level *here = ladder_find(q->ladder, str_view(q->level));
    if (a->rule == POLICY_NO_LEVELS)
        return;
    metrics_add(s,
                a->rule != POLICY_LADDER   ? by_rule[a->rule]
                : here && a->target < here ? METRIC_DEMOTE
                                           : METRIC_PROMOTE,
                1);
}

void metrics_batch(struct metrics_slot *s, size_t n) {
    int bucket = METRIC_BATCH_FIRST;
    for (size_t bound = 1; bound < n && bucket < METRIC_BATCH_LAST; bound *= 2)
        bucket++;
    metrics_add(s, (enum metric)bucket, 1);
    metrics_add(s, METRIC_BATCH_SUM, n);
}

uint64_t metrics_sum(const struct metrics *m, enum metric which) {
    uint64_t n = 0;
    for (size_t i = 0; i < m->n; i++)
        n += __atomic_load_n(&m->slots[i].slot.n[which], __ATOMIC_RELAXED);
    return n;
}

void metrics_write(struct buf *b, const struct metrics *m) {
    static const struct {
        enum metric which;
        const char *name, *label, *help; /* help with the first of a name */
    } counters[] = {
        {METRIC_POST_ACCEPTED, "tierd_posts_total", "{result=\"accepted\"}", "Posts of counts."},
        {METRIC_POST_REFUSED, "tierd_posts_total", "{result=\"refused\"}", NULL},
        {METRIC_POST_FAILED, "tierd_posts_total", "{result=\"failed\"}", NULL},
        {METRIC_COMMITTED, "tierd_commits_total", "{result=\"committed\"}",
         "Answers to workers that asked for a move to be committed; a repeated question counts "
         "again."},
        {METRIC_COMMIT_REFUSED, "tierd_commits_total", "{result=\"refused\"}", NULL},
        {METRIC_PROMOTE, "tierd_decisions_total", "{rule=\"promote\"}",
         "Where posted counts were found to belong, by the rule that decided."},
        {METRIC_DEMOTE, "tierd_decisions_total", "{rule=\"demote\"}", NULL},
        {METRIC_STAYS, "tierd_decisions_total", "{rule=\"stays\"}", NULL},
        {METRIC_MARGIN, "tierd_decisions_total", "{rule=\"demote-margin\"}", NULL},
        {METRIC_RESIDENCY, "tierd_decisions_total", "{rule=\"min-residency\"}", NULL},
        {METRIC_MAX_USE, "tierd_decisions_total", "{rule=\"max-use\"}", NULL},
    };
    for (size_t i = 0; i < sizeof counters / sizeof *counters; i++) {
        if (counters[i].help)
            buf_addf(b, "# HELP %s %s\n# TYPE %s counter\n", counters[i].name, counters[i].help,
                     counters[i].name);
        buf_addf(b, "%s%s %" PRIu64 "\n", counters[i].name, counters[i].label,
                 metrics_sum(m, counters[i].which));
    }
    uint64_t n = 0;
    buf_add_str(b, "# HELP tierd_lookup_batch_size Look-ups that went out as one SELECT.\n"
                   "# TYPE tierd_lookup_batch_size histogram\n");
    for (int i = METRIC_BATCH_FIRST; i < METRIC_BATCH_LAST; i++) {
        n += metrics_sum(m, i);
        buf_addf(b, "tierd_lookup_batch_size_bucket{le=\"%d\"} %" PRIu64 "\n",
                 1 << (i - METRIC_BATCH_FIRST), n);
    }
    n += metrics_sum(m, METRIC_BATCH_LAST);
    buf_addf(b,
             "tierd_lookup_batch_size_bucket{le=\"+Inf\"} %" PRIu64
             "\ntierd_lookup_batch_size_sum %" PRIu64 "\ntierd_lookup_batch_size_count %" PRIu64
             "\n",
             n, metrics_sum(m, METRIC_BATCH_SUM), n);
}
