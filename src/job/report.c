#include "job/report.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "job/job.h"
#include "job/watch.h"
#include "queue/keys.h"

enum {
    SENTENCE_BYTES = 2048,
    NAME_SHOWN_BYTES = 300, /* of a file's name in a status: a path that a person can read */
};

/* ---- pieces ---- */

/* The value that follows `key` in a flat reply of pairs; empty when it is not there. */
static struct str_view pair(const redis_reply *r, const char *key) {
    for (size_t i = 0; i + 1 < redis_len(r); i += 2)
        if (str_is(redis_text(redis_at(r, i)), key))
            return redis_text(redis_at(r, i + 1));
    return (struct str_view){"", 0};
}

static uint64_t to_u64(struct str_view v) {
    uint64_t n = 0;
    (void)str_u64(v, UINT64_MAX, &n);
    return n;
}

/* The next number of a text of numbers with blanks between them; `v` is what follows. */
static uint64_t take_u64(struct str_view *v) {
    size_t n = 0;
    while (n < v->len && v->ptr[n] != ' ')
        n++;
    uint64_t out = to_u64((struct str_view){v->ptr, n});
    n += n < v->len ? 1 : 0;
    *v = (struct str_view){v->ptr + n, v->len - n};
    return out;
}

static void add_key(struct buf *b, const char *key) {
    buf_addf(b, "%s\"%s\": ",
             b->len && (b->data[b->len - 1] == '{' || b->data[b->len - 1] == '[') ? "" : ", ", key);
}

static void add_text(struct buf *b, const char *key, struct str_view v) {
    add_key(b, key);
    buf_add_json(b, v);
}

static void add_u64(struct buf *b, const char *key, uint64_t n) {
    add_key(b, key);
    buf_addf(b, "%" PRIu64, n);
}

static void add_null(struct buf *b, const char *key) {
    add_key(b, key);
    buf_add_str(b, "null");
}

/* Opens the next element of a list. */
static void add_element(struct buf *b, size_t i) {
    buf_add_str(b, i ? ", {" : "{");
}

void report_use(const redis_reply *use_reply, const struct ladder *ladder, struct level_use *use) {
    for (size_t i = 0; i < ladder->len; i++) {
        struct str_view v = pair(use_reply, ladder->levels[i].name);
        use[i].known = v.len > 0;
        use[i].used_bytes = take_u64(&v);
        use[i].free_bytes = take_u64(&v);
    }
}

/* What happened, for a person: its name is as good, unless it is one of these. */
static struct str_view event_words(struct str_view what) {
    static const char *const words[][2] = {
        {"retried", "failed, is tried again"},  {"retry", "started anew by an operator"},
        {"cancel", "cancelled by an operator"}, {"pause", "an operator paused"},
        {"resume", "an operator resumed"},      {"taken", "moved by another program"},
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (str_is(what, words[i][0]))
            return str_view(words[i][1]);
    return what;
}

/* An entry of a stream: its id begins with the time; then pairs. */
static void add_event(struct buf *b, const redis_reply *entry) {
    struct str_view id = redis_text(redis_at(entry, 0));
    const char *dash = memchr(id.ptr, '-', id.len);
    const redis_reply *fields = redis_at(entry, 1);
    add_u64(b, "time_ms", to_u64((struct str_view){id.ptr, dash ? (size_t)(dash - id.ptr) : 0}));
    for (size_t i = 0; i + 1 < redis_len(fields); i += 2) {
        struct str_view key = redis_text(redis_at(fields, i));
        add_key(b, "");
        b->len -= b->failed ? 0 : 4; /* the key itself is text as well */
        buf_add_json(b, key);
        buf_add_str(b, ": ");
        buf_add_json(b, redis_text(redis_at(fields, i + 1)));
    }
    struct str_view words = event_words(pair(fields, "what"));
    if (words.len)
        add_text(b, "words", words);
}

static void add_events(struct buf *b, const char *key, const redis_reply *events) {
    add_key(b, key);
    buf_add_str(b, "[");
    for (size_t i = 0; i < redis_len(events); i++) {
        add_element(b, i);
        add_event(b, redis_at(events, i));
        buf_add_str(b, "}");
    }
    buf_add_str(b, "]");
}

/* "done total rate began until worker" */
static void add_progress(struct buf *b, struct str_view v, uint64_t now_ms) {
    uint64_t done = take_u64(&v), total = take_u64(&v), rate = take_u64(&v), began = take_u64(&v);
    (void)take_u64(&v);
    add_u64(b, "done_bytes", done);
    add_u64(b, "total_bytes", total);
    add_u64(b, "bytes_per_s", rate);
    add_u64(b, "running_ms", now_ms > began ? now_ms - began : 0);
    if (rate && total >= done)
        add_u64(b, "left_ms", (total - done) * 1000 / rate);
    else
        add_null(b, "left_ms");
    add_text(b, "worker_id", v);
}

/* ---- status ---- */

static uint64_t count_at(const redis_reply *r, size_t i) {
    int64_t n = redis_int(redis_at(r, i));
    return n > 0 ? (uint64_t)n : 0;
}

uint64_t report_stat(const redis_reply *watched, const char *name) {
    return to_u64(pair(redis_at(watched, STATUS_STATS), name));
}

void report_numbers(const redis_reply *w, struct status_numbers *out) {
    *out = (struct status_numbers){
        .running = count_at(w, STATUS_RUNNING),
        .alive = count_at(w, STATUS_ALIVE),
        .ready = count_at(w, STATUS_READY),
        .later = count_at(w, STATUS_LATER),
        .parked = count_at(w, STATUS_PARKED),
        .dead = count_at(w, STATUS_DEAD),
        .conflict = count_at(w, STATUS_CONFLICT),
        .age_ms = to_u64(redis_text(redis_at(w, STATUS_AGE))),
        .moves = report_stat(w, STAT_MOVES),
        .bytes = report_stat(w, STAT_BYTES),
        .took_ms = report_stat(w, STAT_MS),
        .retried = report_stat(w, STAT_RETRIED),
        .deaths = report_stat(w, STAT_DEAD),
        .conflicts = report_stat(w, STAT_CONFLICT),
    };
}

const redis_reply *report_use_of(const redis_reply *watched) {
    return redis_at(watched, STATUS_USE);
}

/* The gate of that name among the closed ones, or NULL. */
static const redis_reply *find_gate(const redis_reply *gates, const char *name) {
    for (size_t i = 0; i < redis_len(gates); i++)
        if (str_is(redis_text(redis_at(redis_at(gates, i), SHUT_GATE)), name))
            return redis_at(gates, i);
    return NULL;
}

void report_room(const redis_reply *watched, const char *level, uint64_t *full, uint64_t *jobs) {
    char space[JOB_LEVEL_BYTES + sizeof GATE_SPACE];
    const redis_reply *gates = redis_at(watched, STATUS_GATES);
    snprintf(space, sizeof space, GATE_SPACE "%s", level);
    *full = redis_text(redis_at(find_gate(gates, level), SHUT_WHY)).len > 0;
    *jobs = count_at(find_gate(gates, space), SHUT_JOBS);
}

/* Troubles: the first of a level from `*from` on, or NULL. */
static const redis_reply *next_trouble(const redis_reply *all, struct str_view level,
                                       size_t *from) {
    while (*from < redis_len(all)) {
        const redis_reply *one = redis_at(all, (*from)++);
        struct str_view of = redis_text(redis_at(one, TROUBLE_LEVEL));
        if (of.len == level.len && memcmp(of.ptr, level.ptr, of.len) == 0)
            return one;
    }
    return NULL;
}

/* "the file system of the level gold does not answer (on web1, for 12 s)" */
static size_t trouble_text(char *out, size_t cap, const redis_reply *one, uint64_t now_ms) {
    char span[STR_SPAN_BYTES];
    struct str_view host = redis_text(redis_at(one, TROUBLE_HOST)),
                    text = redis_text(redis_at(one, TROUBLE_TEXT));
    uint64_t since_ms = to_u64(redis_text(redis_at(one, TROUBLE_SINCE)));
    int n = snprintf(out, cap, "%.*s (on %.*s, for %s)", STR_ARG(text), STR_ARG(host),
                     str_span(now_ms > since_ms ? now_ms - since_ms : 0, span));
    return n < 0 ? 0 : (size_t)n < cap ? (size_t)n : cap - 1;
}

/* What hosts say of a level that they cannot use, a sentence each. */
static void add_trouble(struct buf *b, const redis_reply *all, const char *level, uint64_t now_ms) {
    char text[SENTENCE_BYTES] = "";
    const redis_reply *one;
    size_t from = 0, n = 0;
    add_key(b, "trouble");
    buf_add_str(b, "[");
    for (; (one = next_trouble(all, str_view(level), &from)); n++) {
        buf_add_str(b, n ? ", " : "");
        buf_add_json(b, (struct str_view){text, trouble_text(text, sizeof text, one, now_ms)});
    }
    buf_add_str(b, "]");
}

uint64_t report_troubles(const redis_reply *watched, const char *level) {
    size_t from = 0;
    uint64_t n = 0;
    while (next_trouble(redis_at(watched, STATUS_TROUBLE), str_view(level), &from))
        n++;
    return n;
}

static void add_levels(struct buf *b, const struct status_facts *f) {
    uint64_t now_ms = to_u64(redis_text(redis_at(f->watched, STATUS_NOW)));
    struct level_use use[LADDER_MAX_LEVELS];
    report_use(redis_at(f->watched, STATUS_USE), f->ladder, use);
    add_key(b, "levels");
    buf_add_str(b, "[");
    for (size_t n = 0; n < f->ladder->len; n++) {
        size_t i = f->ladder->len - 1 - n; /* the highest first */
        const struct level *l = &f->ladder->levels[i];
        const redis_reply *gate = find_gate(redis_at(f->watched, STATUS_GATES), l->name);
        add_element(b, n);
        add_text(b, "level", str_view(l->name));
        add_text(b, "path", str_view(l->path));
        add_u64(b, "min_count", l->min_count);
        if (f->files)
            add_u64(b, "files", f->files[i]);
        else
            add_null(b, "files");
        if (use[i].known) {
            add_u64(b, "used_bytes", use[i].used_bytes);
            add_u64(b, "free_bytes", use[i].free_bytes);
        } else {
            add_null(b, "used_bytes");
            add_null(b, "free_bytes");
        }
        bool full = redis_text(redis_at(gate, SHUT_WHY)).len > 0;
        add_key(b, "paused");
        buf_add_str(b, gate && !full ? "true" : "false");
        add_key(b, "full");
        buf_add_str(b, full ? "true" : "false");
        add_trouble(b, redis_at(f->watched, STATUS_TROUBLE), l->name, now_ms);
        buf_add_str(b, "}");
    }
    buf_add_str(b, "]");
}

static bool gate_is(struct str_view gate, const char *kind) {
    size_t n = strlen(kind);
    return gate.len >= n && memcmp(gate.ptr, kind, n) == 0;
}

/* The levels of a route, "@route" and then each with a newline before and behind it, in words. */
static void route_text(char *out, size_t cap, const char *before, struct str_view gate) {
    size_t n = (size_t)snprintf(out, cap, "%s", before);
    for (size_t i = strlen(GATE_ROUTE); i < gate.len && n + 6 < cap; i++)
        if (gate.ptr[i] != '\n')
            out[n++] = gate.ptr[i];
        else if (i + 1 < gate.len)
            n += (size_t)snprintf(out + n, cap - n, " and ");
    out[n] = '\0';
}

/* The closed gate in words, for those who wait behind it together. `why` is of a level without
 * room. */
static void add_gate_text(struct buf *b, struct str_view gate, bool until_resumed,
                          struct str_view why) {
    char text[SENTENCE_BYTES];
    if (gate_is(gate, GATE_SPACE)) {
        snprintf(text, sizeof text, "%.*s", STR_ARG(why));
    } else if (why.len) {
        snprintf(text, sizeof text, "%.*s is full: %.*s", STR_ARG(gate), STR_ARG(why));
    } else if (str_is(gate, GATE_ALL)) {
        snprintf(text, sizeof text, "all moves are paused%s",
                 until_resumed ? " until they are resumed" : "");
    } else if (str_is(gate, GATE_WINDOW)) {
        snprintf(text, sizeof text, "outside the window");
    } else if (gate_is(gate, GATE_BUSY)) {
        snprintf(text, sizeof text, "as many moves into %.*s as level-jobs allows",
                 (int)(gate.len - strlen(GATE_BUSY)), gate.ptr + strlen(GATE_BUSY));
    } else if (!gate_is(gate, GATE_ROUTE)) {
        snprintf(text, sizeof text, "%.*s is paused%s", STR_ARG(gate),
                 until_resumed ? " until it is resumed" : "");
    } else {
        route_text(text, sizeof text, "no worker reaches ", gate);
    }
    add_text(b, "text", str_view(text));
}

/* Why moves wait: each closed gate, how many wait behind it, and until when. */
static void add_gates(struct buf *b, const redis_reply *gates) {
    add_key(b, "paused");
    buf_add_str(b, "[");
    for (size_t i = 0; i < redis_len(gates); i++) {
        const redis_reply *g = redis_at(gates, i);
        struct str_view till = redis_text(redis_at(g, SHUT_UNTIL));
        add_element(b, i);
        add_text(b, "gate", redis_text(redis_at(g, SHUT_GATE)));
        add_gate_text(b, redis_text(redis_at(g, SHUT_GATE)), str_is(till, "0"),
                      redis_text(redis_at(g, SHUT_WHY)));
        add_u64(b, "jobs", count_at(g, SHUT_JOBS));
        if (str_is(till, "0"))
            add_null(b, "until_ms");
        else
            add_u64(b, "until_ms", to_u64(till));
        buf_add_str(b, "}");
    }
    buf_add_str(b, "]");
}

/* The end of a long name, which tells more than its beginning; whole characters. */
static struct str_view shown(struct str_view name) {
    if (name.len <= NAME_SHOWN_BYTES)
        return name;
    size_t cut = name.len - NAME_SHOWN_BYTES;
    while (cut < name.len && ((unsigned char)name.ptr[cut] & 0xC0) == 0x80)
        cut++;
    return (struct str_view){name.ptr + cut, name.len - cut};
}

static void add_moves(struct buf *b, const redis_reply *moves, uint64_t now_ms) {
    add_key(b, "moves");
    buf_add_str(b, "[");
    for (size_t i = 0; i < redis_len(moves); i++) {
        const redis_reply *m = redis_at(moves, i);
        add_element(b, i);
        add_text(b, "cid", redis_text(redis_at(m, MOVE_CID)));
        add_text(b, "filename", shown(redis_text(redis_at(m, MOVE_FILENAME))));
        add_text(b, "from", redis_text(redis_at(m, MOVE_SRC)));
        add_text(b, "to", redis_text(redis_at(m, MOVE_TARGET)));
        add_progress(b, redis_text(redis_at(m, MOVE_PROGRESS)), now_ms);
        buf_add_str(b, "}");
    }
    buf_add_str(b, "]");
}

static void add_workers(struct buf *b, const redis_reply *workers, uint64_t now_ms) {
    add_key(b, "workers");
    buf_add_str(b, "[");
    for (size_t i = 0; i + 1 < redis_len(workers); i += 2) {
        struct str_view id = redis_text(redis_at(workers, i));
        struct str_view v = redis_text(redis_at(workers, i + 1));
        const char *dot = memchr(id.ptr, '.', id.len);
        uint64_t began = take_u64(&v);
        add_element(b, i);
        add_text(b, "worker_id", id);
        add_text(b, "host", (struct str_view){id.ptr, dot ? (size_t)(dot - id.ptr) : id.len});
        add_u64(b, "alive_ms", now_ms > began ? now_ms - began : 0);
        buf_add_str(b, "}");
    }
    buf_add_str(b, "]");
}

/* The ring, oldest first, up to the slot that fills just now. */
static void add_rates(struct buf *b, const redis_reply *ring, uint64_t now_ms) {
    uint64_t moves[RATE_SLOTS] = {0}, bytes[RATE_SLOTS] = {0};
    uint64_t last = now_ms / RATE_SLOT_MS;
    for (size_t i = 0; i + 1 < redis_len(ring); i += 2) {
        struct str_view v = redis_text(redis_at(ring, i + 1));
        uint64_t slot = take_u64(&v);
        if (slot > last || last - slot >= RATE_SLOTS)
            continue;
        moves[RATE_SLOTS - 1 - (last - slot)] = take_u64(&v);
        bytes[RATE_SLOTS - 1 - (last - slot)] = take_u64(&v);
    }
    add_key(b, "rates");
    buf_addf(b, "{\"slot_ms\": %d, \"filled_ms\": %" PRIu64, RATE_SLOT_MS, now_ms % RATE_SLOT_MS);
    for (int which = 0; which < 2; which++) {
        add_key(b, which ? "bytes" : "moves");
        for (size_t i = 0; i < RATE_SLOTS; i++)
            buf_addf(b, "%s%" PRIu64, i ? ", " : "[", which ? bytes[i] : moves[i]);
        buf_add_str(b, "]");
    }
    buf_add_str(b, "}");
}

static void add_watched(struct buf *b, const redis_reply *w) {
    struct status_numbers n;
    uint64_t now_ms = to_u64(redis_text(redis_at(w, STATUS_NOW)));
    report_numbers(w, &n);
    add_u64(b, "time_ms", now_ms);
    add_key(b, "jobs");
    buf_add_str(b, "{");
    add_u64(b, "ready", n.ready);
    add_u64(b, "moving", n.running);
    add_u64(b, "later", n.later);
    add_u64(b, "paused", n.parked);
    add_u64(b, "conflict", n.conflict);
    add_u64(b, "dead", n.dead);
    add_u64(b, "oldest_ready_ms", n.age_ms);
    buf_add_str(b, "}");
    add_key(b, "totals");
    buf_add_str(b, "{");
    add_u64(b, "moves", n.moves);
    add_u64(b, "bytes", n.bytes);
    add_u64(b, "took_ms", n.took_ms);
    add_u64(b, "retried", n.retried);
    buf_add_str(b, "}");
    add_u64(b, "alive", n.alive);
    add_workers(b, redis_at(w, STATUS_WORKERS), now_ms);
    add_moves(b, redis_at(w, STATUS_MOVES), now_ms);
    add_gates(b, redis_at(w, STATUS_GATES));
    add_rates(b, redis_at(w, STATUS_RATES), now_ms);
    add_events(b, "errors", redis_at(w, STATUS_ERRORS));
    add_events(b, "events", redis_at(w, STATUS_EVENTS));
}

/* What stands in the way in Redis, or only of what is shown, a sentence each. */
static void add_amiss(struct buf *b, const struct keys_amiss *amiss) {
    add_key(b, "amiss");
    buf_add_str(b, "[");
    for (size_t i = 0; amiss && i < amiss->n; i++) {
        buf_add_str(b, i ? ", " : "");
        buf_add_json(b, str_view(amiss->each[i].text));
    }
    buf_add_str(b, "]");
}

void report_status(struct buf *b, const struct status_facts *f) {
    buf_add_str(b, "{");
    add_text(b, "redis", str_view(f->watched ? "ok" : "down"));
    add_text(b, "db", str_view(f->db_ok ? "ok" : "down"));
    add_amiss(b, f->amiss);
    add_levels(b, f);
    if (f->watched)
        add_watched(b, f->watched);
    buf_add_str(b, "}");
}

/* ---- one content ---- */

/* "in 4 s", "in 3 min"; "now" for what is due. */
static const char *in_words(uint64_t now_ms, uint64_t at_ms, char out[40]) {
    char span[STR_SPAN_BYTES];
    if (at_ms <= now_ms)
        return "now";
    snprintf(out, 40, "in %s", str_span(at_ms - now_ms, span));
    return out;
}

static void say_gate(char *out, size_t cap, struct str_view gate, struct str_view until,
                     struct str_view full, uint64_t now_ms) {
    char when[40] = "when it is resumed";
    char text[40];
    if (until.len && !str_is(until, "0"))
        snprintf(when, sizeof when, "%s", in_words(now_ms, to_u64(until), text));
    if (str_is(gate, GATE_ALL))
        snprintf(out, cap, "all moves are paused; it goes on %s", when);
    else if (str_is(gate, GATE_WINDOW))
        snprintf(out, cap, "moves start in the window only; it opens %s", when);
    else if (gate_is(gate, GATE_BUSY))
        snprintf(out, cap, "as many moves into %.*s are under way as level-jobs allows",
                 (int)(gate.len - strlen(GATE_BUSY)), gate.ptr + strlen(GATE_BUSY));
    else if (gate_is(gate, GATE_ROUTE))
        route_text(out, cap, "it waits for a worker that reaches ", gate);
    else if (full.len)
        snprintf(out, cap, "the level %.*s is full: %.*s; it goes on %s", STR_ARG(gate),
                 STR_ARG(full), when);
    else
        snprintf(out, cap, "the level %.*s is paused; it goes on %s", STR_ARG(gate), when);
}

/* Appends why the first level on the job's way that has a trouble cannot be used. */
static void say_trouble(char *out, size_t cap, const redis_reply *w) {
    const redis_reply *fields = redis_at(w, EXPLAIN_JOB), *all = redis_at(w, EXPLAIN_TROUBLE),
                      *one = NULL;
    const struct str_view levels[] = {pair(fields, FIELD_SRC), pair(fields, FIELD_TARGET)};
    size_t len = strlen(out), from;
    for (size_t i = 0; i < 2 && !one; i++) {
        from = 0;
        one = levels[i].len ? next_trouble(all, levels[i], &from) : NULL;
    }
    for (size_t i = 0; i + 1 < redis_len(fields) && !one; i += 2) {
        struct str_view key = redis_text(redis_at(fields, i));
        from = 0;
        if (gate_is(key, FIELD_SPARE))
            one = next_trouble(
                all,
                (struct str_view){key.ptr + strlen(FIELD_SPARE), key.len - strlen(FIELD_SPARE)},
                &from);
    }
    if (one && len + 2 < cap) {
        memcpy(out + len, ": ", 3);
        (void)trouble_text(out + len + 2, cap - len - 2, one,
                           to_u64(redis_text(redis_at(w, EXPLAIN_NOW))));
    }
}

/* One sentence: what is going on with it, or what it waits for. What a worker does is in the hash;
 * the JSON may be gone, or another program's by now. */
static void say_state(char *out, size_t cap, const struct job_facts *f, const struct job *job,
                      bool has_json, const struct policy_answer *a) {
    const redis_reply *w = f->watched, *fields = redis_at(w, EXPLAIN_JOB);
    struct str_view state = pair(fields, FIELD_STATE), error = pair(fields, FIELD_ERROR);
    struct str_view src = pair(fields, FIELD_SRC), target = pair(fields, FIELD_TARGET);
    struct str_view gate = pair(fields, FIELD_GATE), lock = redis_text(redis_at(w, EXPLAIN_LOCK));
    uint64_t now_ms = to_u64(redis_text(redis_at(w, EXPLAIN_NOW)));
    uint64_t due_ms = to_u64(redis_text(redis_at(w, EXPLAIN_DUE)));
    const char *stopping = f->amiss ? keys_stopping(f->amiss) : NULL;
    bool failed = has_json && (job->status == JOB_DEAD || job->status == JOB_CONFLICT);
    char when[40];
    if (redis_len(redis_at(w, EXPLAIN_AMISS)) > 0)
        keys_sentence(out, cap, redis_at(redis_at(w, EXPLAIN_AMISS), 0));
    else if (failed)
        snprintf(out, cap, "%s: %s; a post or `tierd retry %" PRIu64 "` starts it anew",
                 job_status_name(job->status), job->error, f->cid);
    else if (str_is(state, STATE_CLAIMED) && lock.len)
        snprintf(out, cap, "%.*s moves it from %.*s to %.*s", STR_ARG(lock), STR_ARG(src),
                 STR_ARG(target));
    else if (str_is(state, STATE_DONE))
        snprintf(out, cap, "the copy in %.*s stands; the catalogue is still to be told",
                 STR_ARG(target));
    else if (str_is(state, STATE_COMMITTED) || str_is(state, STATE_CANCELLED))
        snprintf(out, cap, "it is where it belongs; an old copy is taken away %s",
                 in_words(now_ms, due_ms, when));
    else if (gate.len) {
        say_gate(out, cap, gate, redis_text(redis_at(w, EXPLAIN_UNTIL)),
                 redis_text(redis_at(w, EXPLAIN_FULL)), now_ms);
        if (gate_is(gate, GATE_ROUTE))
            say_trouble(out, cap, w);
    } else if (!state.len && !has_json)
        snprintf(out, cap, "no count of it is known");
    else if (!state.len && job->status != JOB_UPDATE)
        snprintf(out, cap, "nothing is under way%s",
                 a->target && !str_is(str_view(a->target->name), f->row->level)
                     ? "; the next post decides anew"
                     : "");
    else if (stopping)
        snprintf(out, cap, "it waits: %s", stopping);
    else if (due_ms > now_ms && error.len)
        snprintf(out, cap, "it is tried again %s: %.*s", in_words(now_ms, due_ms, when),
                 STR_ARG(error));
    else if (redis_int(redis_at(w, EXPLAIN_ALIVE)) == 0)
        snprintf(out, cap, "it waits; no worker is alive");
    else
        snprintf(out, cap, "it waits for a worker, due %s", in_words(now_ms, due_ms, when));
}

static void add_ladder(struct buf *b, const struct job_facts *f, const struct level_use *use) {
    add_key(b, "ladder");
    buf_add_str(b, "[");
    for (size_t n = 0; n < f->ladder->len; n++) {
        size_t i = f->ladder->len - 1 - n;
        const struct level *l = &f->ladder->levels[i];
        add_element(b, n);
        add_text(b, "level", str_view(l->name));
        add_u64(b, "min_count", l->min_count);
        if (use[i].known)
            add_u64(b, "use_percent", level_use_percent(&use[i]));
        else
            add_null(b, "use_percent");
        add_u64(b, "max_use_percent", policy_max_use(f->policy, l->name));
        buf_add_str(b, "}");
    }
    buf_add_str(b, "]");
}

static void add_decision(struct buf *b, const struct job_facts *f, const struct policy_question *q,
                         const struct policy_answer *a) {
    char text[SENTENCE_BYTES];
    policy_sentence(f->policy, q, a, text, sizeof text);
    add_key(b, "decision");
    buf_add_str(b, "{");
    add_text(b, "target", str_view(a->target ? a->target->name : ""));
    add_text(b, "ladder", str_view(a->wanted ? a->wanted->name : ""));
    add_text(b, "rule", str_view(policy_rule_name(a->rule)));
    add_text(b, "why", str_view(text));
    buf_add_str(b, "}");
}

/* A job that was never claimed has no hash yet: its JSON and its place in the queue say it. */
static struct str_view state_of(const redis_reply *w, const struct job *job, bool has_json) {
    struct str_view state = pair(redis_at(w, EXPLAIN_JOB), FIELD_STATE);
    bool waits = has_json && job->status == JOB_UPDATE && !redis_is_nil(redis_at(w, EXPLAIN_DUE));
    return state.len || !waits ? state : str_view(job_state_name(JOB_STATE_QUEUED));
}

static void add_state(struct buf *b, const struct job_facts *f, struct str_view state) {
    const redis_reply *w = f->watched, *fields = redis_at(w, EXPLAIN_JOB);
    static const char *const numbers[] = {FIELD_ATTEMPTS, FIELD_WAITS, FIELD_CRASHES};
    uint64_t now_ms = to_u64(redis_text(redis_at(w, EXPLAIN_NOW)));
    uint64_t due_ms = to_u64(redis_text(redis_at(w, EXPLAIN_DUE)));
    add_text(b, "state", state);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        add_u64(b, numbers[i], to_u64(pair(fields, numbers[i])));
    add_text(b, "last_error", pair(fields, FIELD_ERROR));
    add_text(b, "gate", pair(fields, FIELD_GATE));
    if (due_ms)
        add_u64(b, "due_in_ms", due_ms > now_ms ? due_ms - now_ms : 0);
    else
        add_null(b, "due_in_ms");
    if (redis_is_nil(redis_at(w, EXPLAIN_PROGRESS))) {
        add_null(b, "progress");
    } else {
        add_key(b, "progress");
        buf_add_str(b, "{");
        add_progress(b, redis_text(redis_at(w, EXPLAIN_PROGRESS)), now_ms);
        buf_add_str(b, "}");
    }
}

void report_job(struct buf *b, const struct job_facts *f) {
    struct job job = {0};
    struct level_use use[LADDER_MAX_LEVELS];
    char text[SENTENCE_BYTES];
    struct str_view json = redis_text(redis_at(f->watched, EXPLAIN_JSON));
    bool has_json = json.len && job_read(json, f->cid, &job) == JOB_OK;
    report_use(redis_at(f->watched, EXPLAIN_USE), f->ladder, use);
    buf_addf(b, "{\"cid\": \"%" PRIu64 "\"", f->cid);
    if (f->row) {
        const struct level *l = ladder_find(f->ladder, str_view(f->row->level));
        add_text(b, "filename", str_view(f->row->filename));
        add_text(b, "level", str_view(f->row->level));
        add_text(b, "level_path", str_view(l ? l->path : ""));
        add_text(b, "update_time", str_view(f->row->seen));
    }
    if (has_json)
        add_u64(b, "count", job.count);
    else
        add_null(b, "count");
    if (f->row) {
        struct policy_question q = {f->ladder, f->row->level, job.count, f->row->age_ms, use};
        struct policy_answer a = policy_decide(f->policy, &q);
        say_state(text, sizeof text, f, &job, has_json, &a);
        add_text(b, "now", str_view(text));
        if (has_json)
            add_decision(b, f, &q, &a);
    } else {
        add_text(b, "now", str_view("it is not in the catalogue"));
    }
    add_ladder(b, f, use);
    add_key(b, "job");
    if (has_json)
        buf_add(b, json.ptr, json.len);
    else
        buf_add_str(b, "null");
    add_state(b, f, state_of(f->watched, &job, has_json));
    add_events(b, "events", redis_at(f->watched, EXPLAIN_EVENTS));
    buf_add_str(b, "}");
}
