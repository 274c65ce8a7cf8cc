#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <yyjson.h>

#include "base/log.h"
#include "job/catalog.h"
#include "job/report.h"
#include "job/watch.h"
#include "ops/ops.h"
#include "ops/term.h"

enum {
    WATCH_EVERY_MS = 1000,
    TIMEOUT_MS = 5000,
    ERRORS_SHOWN = 5,
    MOVES_SHOWN = 12,
    LINES_ALWAYS = 7, /* the servers, two headings with a line before each, MOVED, the cursor's */
    FRAME_BYTES = 64 * 1024,
};

static bool known(yyjson_val *object, const char *key) {
    return yyjson_is_uint(yyjson_obj_get(object, key));
}

static void heading(const char *title) {
    term_paint(stdout, TERM_BOLD);
    fputs(title, stdout);
    term_paint(stdout, TERM_PLAIN);
}

/* What keeps us from using them. */
struct servers {
    struct server_fault redis, db;
};

/* "redis ok", "redis away (Connection refused)", "redis refuses us (WRONGPASS ...)". */
static void print_part(const char *name, const struct server_fault *f) {
    const char *words = fault_words(f->trouble);
    bool ok = f->trouble == SERVER_FINE;
    printf("%s ", name);
    term_paint(stdout, ok ? TERM_GOOD : TERM_BAD);
    fputs(ok ? "ok" : strncmp(words, "is ", 3) == 0 ? words + 3 : words, stdout);
    term_paint(stdout, TERM_PLAIN);
    if (!ok) {
        fputs(" (", stdout);
        term_text(stdout, f->why, 0);
        fputs(")", stdout);
    }
    fputs("   ", stdout);
}

/* A call on an open connection failed. */
static int failed(struct server_fault *f, int rc) {
    if (rc < 0)
        fault_set(f, rc == -EPROTO ? SERVER_REFUSES : SERVER_AWAY, log_errno_text(rc));
    return rc;
}

/* Workers, and on which hosts, each once. */
static void print_workers(yyjson_val *s) {
    yyjson_val *list = yyjson_obj_get(s, "workers"), *w, *v;
    size_t i, max, k, before;
    uint64_t alive = ops_number(s, "alive");
    term_paint(stdout, alive ? TERM_PLAIN : TERM_BAD);
    printf("%" PRIu64 " worker%s alive", alive, ops_s(alive));
    term_paint(stdout, TERM_PLAIN);
    bool first = true;
    yyjson_arr_foreach(list, i, max, w) {
        bool again = false;
        yyjson_arr_foreach(list, k, before, v) {
            if (k >= i)
                break;
            again = again || strcmp(ops_text(v, "host"), ops_text(w, "host")) == 0;
        }
        if (again)
            continue;
        fputs(first ? " on " : ", ", stdout);
        term_text(stdout, ops_text(w, "host"), 0);
        first = false;
    }
    fputc('\n', stdout);
}

static void print_levels(yyjson_val *s) {
    char a[TERM_TEXT_BYTES];
    yyjson_val *l;
    size_t i, max;
    int width = term_width(stdout), path_width = width == 0 ? 0 : width > 77 ? width - 67 : 10;
    heading("\nLEVEL             FILES       FROM  IN USE                  FREE  PATH\n");
    yyjson_arr_foreach(yyjson_obj_get(s, "levels"), i, max, l) {
        struct level_use use = {true, ops_number(l, "used_bytes"), ops_number(l, "free_bytes")};
        unsigned percent = level_use_percent(&use);
        term_text(stdout, ops_text(l, "level"), -12);
        if (known(l, "files"))
            printf(" %10" PRIu64, ops_number(l, "files"));
        else
            printf(" %10s", "-");
        printf(" %10" PRIu64 "  ", ops_number(l, "min_count"));
        if (known(l, "free_bytes")) {
            term_bar(stdout, percent / 100.0, 10);
            printf(" %3u%% %10s", percent, term_size(use.free_bytes, a));
        } else {
            printf("%-16s  %10s", "not known", "-");
        }
        fputs("  ", stdout);
        term_text(stdout, ops_text(l, "path"), path_width);
        fputc('\n', stdout);
    }
}

static void print_jobs(yyjson_val *s) {
    static const struct {
        const char *key, *name;
        enum term_colour colour;
    } states[] = {{"ready", "ready", TERM_PLAIN},     {"moving", "moving", TERM_PLAIN},
                  {"later", "waiting", TERM_PLAIN},   {"paused", "paused", TERM_WARN},
                  {"conflict", "conflict", TERM_BAD}, {"dead", "dead", TERM_BAD}};
    char a[TERM_TEXT_BYTES], b[TERM_TEXT_BYTES];
    yyjson_val *jobs = yyjson_obj_get(s, "jobs"), *totals = yyjson_obj_get(s, "totals");
    heading("\nJOBS    ");
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        uint64_t n = ops_number(jobs, states[i].key);
        term_paint(stdout, n ? states[i].colour : TERM_QUIET);
        printf("%s%s %" PRIu64, i ? "   " : "", states[i].name, n);
        term_paint(stdout, TERM_PLAIN);
    }
    if (ops_number(jobs, "oldest_ready_ms") >= 1000)
        printf("   oldest ready %s", str_span(ops_number(jobs, "oldest_ready_ms"), a));
    heading("\nMOVED   ");
    printf("%" PRIu64 " in all, %s copied, %" PRIu64 " retried\n", ops_number(totals, "moves"),
           term_size(ops_number(totals, "bytes"), b), ops_number(totals, "retried"));
}

static void print_sentence(const char *label, enum term_colour colour, yyjson_val *text) {
    heading(label);
    term_paint(stdout, colour);
    term_text(stdout, yyjson_get_str(text), 0);
    term_paint(stdout, TERM_PLAIN);
    fputc('\n', stdout);
}

/* Levels that a host cannot use. */
static void print_trouble(yyjson_val *s) {
    yyjson_val *l, *text;
    size_t i, k, max, most;
    yyjson_arr_foreach(yyjson_obj_get(s, "levels"), i, max, l) {
        yyjson_arr_foreach(yyjson_obj_get(l, "trouble"), k, most, text) {
            print_sentence("LEVEL   ", TERM_BAD, text);
        }
    }
}

/* What is not as it should be in Redis. */
static void print_amiss(yyjson_val *s) {
    yyjson_val *text;
    size_t i, max;
    yyjson_arr_foreach(yyjson_obj_get(s, "amiss"), i, max, text) {
        print_sentence("AMISS   ", TERM_WARN, text);
    }
}

/* Why jobs that could move do not. */
static void print_gates(yyjson_val *s) {
    yyjson_val *g;
    size_t i, max;
    char left[STR_SPAN_BYTES];
    uint64_t now_ms = ops_number(s, "time_ms");
    yyjson_arr_foreach(yyjson_obj_get(s, "paused"), i, max, g) {
        uint64_t until_ms = ops_number(g, "until_ms"), jobs = ops_number(g, "jobs");
        heading("HELD    ");
        printf("%" PRIu64 " job%s: ", jobs, ops_s(jobs));
        term_paint(stdout, TERM_WARN);
        term_text(stdout, ops_text(g, "text"), 0);
        term_paint(stdout, TERM_PLAIN);
        if (known(g, "until_ms"))
            printf(", %s left", str_span(until_ms > now_ms ? until_ms - now_ms : 0, left));
        fputc('\n', stdout);
    }
}

static void print_move(yyjson_val *m) {
    char a[TERM_TEXT_BYTES], b[TERM_TEXT_BYTES];
    uint64_t done = ops_number(m, "done_bytes"), total = ops_number(m, "total_bytes");
    printf("  %-8s ", ops_text(m, "cid"));
    term_text(stdout, ops_text(m, "filename"), 66);
    fputs("\n           ", stdout);
    term_text(stdout, ops_text(m, "from"), 0);
    fputs(" to ", stdout);
    term_text(stdout, ops_text(m, "to"), 0);
    fputs("  ", stdout);
    if (total) {
        double share = (double)done / (double)total;
        term_bar(stdout, share, 20);
        printf(" %3d%%  %s of %s", (int)(share * 100), term_size(done, a), term_size(total, b));
    } else {
        printf("for %s", str_span(ops_number(m, "running_ms"), a));
    }
    if (ops_number(m, "bytes_per_s"))
        printf("  %s/s", term_size(ops_number(m, "bytes_per_s"), a));
    if (known(m, "left_ms"))
        printf("  %s left", str_span(ops_number(m, "left_ms"), a));
    fputc('\n', stdout);
}

/* How many of each are shown. */
struct shown {
    size_t moves, errors;
};

static size_t lines_of_trouble(yyjson_val *s) {
    yyjson_val *l;
    size_t i, max, n = 0;
    yyjson_arr_foreach(yyjson_obj_get(s, "levels"), i, max, l) n +=
        yyjson_arr_size(yyjson_obj_get(l, "trouble"));
    return n;
}

/* What a terminal has room for: moves first, errors in what is left. */
static struct shown what_fits(yyjson_val *s, int rows) {
    struct shown v = {yyjson_arr_size(yyjson_obj_get(s, "moves")),
                      yyjson_arr_size(yyjson_obj_get(s, "errors"))};
    v.moves = v.moves < MOVES_SHOWN ? v.moves : MOVES_SHOWN;
    v.errors = v.errors < ERRORS_SHOWN ? v.errors : ERRORS_SHOWN;
    if (rows == 0)
        return v;
    long left = rows - LINES_ALWAYS - (long)lines_of_trouble(s) -
                (long)yyjson_arr_size(yyjson_obj_get(s, "levels")) -
                (long)yyjson_arr_size(yyjson_obj_get(s, "paused")) -
                (long)yyjson_arr_size(yyjson_obj_get(s, "amiss"));
    if (v.moves) {
        left -= 3; /* an empty line, the heading, and how many more there are */
        long room = left < 2 ? 1 : left / 2;
        v.moves = v.moves < (size_t)room ? v.moves : (size_t)room;
        left -= 2 * (long)v.moves;
    }
    left -= 2;
    if (left < (long)v.errors)
        v.errors = left > 0 ? (size_t)left : 0;
    return v;
}

static void print_moves(yyjson_val *s, size_t most) {
    yyjson_val *moves = yyjson_obj_get(s, "moves"), *m;
    size_t i, max;
    if (yyjson_arr_size(moves))
        heading("\nMOVES UNDER WAY\n");
    yyjson_arr_foreach(moves, i, max, m) {
        if (i == most) {
            printf("  and %" PRIu64 " more\n",
                   ops_number(yyjson_obj_get(s, "jobs"), "moving") - most);
            break;
        }
        print_move(m);
    }
}

/* The time of day, and the day when it is not today's. */
static void print_time(uint64_t time_ms) {
    char when[32];
    time_t at = (time_t)(time_ms / 1000), now = time(NULL);
    struct tm then, today;
    localtime_r(&at, &then);
    localtime_r(&now, &today);
    bool same = then.tm_yday == today.tm_yday && then.tm_year == today.tm_year;
    strftime(when, sizeof when, same ? "%H:%M:%S" : "%Y-%m-%d %H:%M:%S", &then);
    printf("  %s  ", when);
}

void ops_print_event(yyjson_val *e, bool with_cid) {
    char took[STR_SPAN_BYTES];
    uint64_t ms;
    print_time(ops_number(e, "time_ms"));
    if (with_cid && strcmp(ops_text(e, "cid"), "0") != 0)
        printf("%s ", ops_text(e, "cid"));
    term_text(stdout, ops_text(e, "words"), 0);
    if (*ops_text(e, "to")) {
        fputc(' ', stdout);
        term_text(stdout, ops_text(e, "from"), 0);
        fputs(" to ", stdout);
        term_text(stdout, ops_text(e, "to"), 0);
        if (str_u64(str_view(ops_text(e, "ms")), UINT64_MAX, &ms) == 0)
            printf(" in %s", str_span(ms, took));
    }
    if (*ops_text(e, "about")) {
        fputc(' ', stdout);
        term_text(stdout, ops_text(e, "about"), 0);
    }
    if (*ops_text(e, "error")) {
        fputs(": ", stdout);
        term_text(stdout, ops_text(e, "error"), 0);
    }
    fputc('\n', stdout);
}

/* In at most so many `rows`, 0 for as many as need be. */
static void print_status(yyjson_val *s, const struct servers *rc, int rows) {
    struct shown shown = what_fits(s, rows);
    yyjson_val *e;
    size_t i, max;
    print_part("redis", &rc->redis);
    print_part("database", &rc->db);
    if (yyjson_obj_get(s, "alive"))
        print_workers(s);
    else
        fputc('\n', stdout);
    print_trouble(s);
    print_amiss(s);
    print_levels(s);
    if (!yyjson_obj_get(s, "jobs"))
        return;
    print_jobs(s);
    print_gates(s);
    print_moves(s, shown.moves);
    if (shown.errors)
        heading("\nLAST ERRORS\n");
    yyjson_arr_foreach(yyjson_obj_get(s, "errors"), i, max, e) {
        if (i == shown.errors)
            break;
        ops_print_event(e, true);
    }
}

/* As a picture that takes the place of the last one, or below it with an empty line between. */
static void print_frame(yyjson_val *s, const struct servers *rc, bool first) {
    if (!term_draws(stdout)) {
        if (!first)
            putchar('\n');
        print_status(s, rc, 0);
        return;
    }
    term_frame_begin(stdout);
    print_status(s, rc, term_height(stdout));
    term_frame_end(stdout);
}

/* Asks and shows once, the `n`-th time. What is away is shown as such. */
static int show(struct ops *o, uint64_t n) {
    uint64_t files[LADDER_MAX_LEVELS];
    redis_reply *reply = NULL;
    struct buf b;
    struct servers rc = {{.trouble = SERVER_FINE}, {.trouble = SERVER_FINE}};
    struct keys_amiss amiss;
    if (!o->redis)
        (void)redis_open(o->redis_url, &o->redis_names, TIMEOUT_MS, &o->redis, &rc.redis);
    if (!o->db)
        (void)db_open(o->db_url, &o->db_names, TIMEOUT_MS, &o->db, &rc.db);
    struct status_facts f = {.ladder = &o->ladder};
    f.db_ok = o->db && failed(&rc.db, catalog_levels(o->db, &o->ladder)) == 0;
    if (f.db_ok && catalog_count_files(o->db, &o->ladder, files) == 0)
        f.files = files;
    if (o->redis && failed(&rc.redis, watch_status(&o->queue, o->redis, &reply)) == 0)
        f.watched = reply;
    if (f.watched && ops_amiss(o, &amiss))
        f.amiss = &amiss;
    if (!f.db_ok || rc.db.trouble == SERVER_NO_WRITES) { /* opened anew the next time */
        db_close(o->db);
        o->db = NULL;
    }
    if (!f.watched || rc.redis.trouble == SERVER_NO_WRITES) {
        redis_close(o->redis);
        o->redis = NULL;
    }
    buf_init(&b, REPORT_BYTES);
    report_status(&b, &f);
    redis_reply_free(reply);
    int status = f.db_ok && f.watched ? 0 : EX_UNAVAILABLE;
    yyjson_doc *doc = b.failed ? NULL : yyjson_read(b.data, b.len, 0);
    if (!doc) {
        log_refusal("the status could not be made");
        status = EX_SOFTWARE;
    } else if (o->cfg->json) {
        printf("%.*s\n", (int)b.len, b.data);
    } else {
        if (o->cfg->watch)
            print_frame(yyjson_doc_get_root(doc), &rc, n == 0);
        else
            print_status(yyjson_doc_get_root(doc), &rc, 0);
    }
    yyjson_doc_free(doc);
    buf_release(&b);
    return status;
}

int ops_status(struct ops *o) {
    sigset_t end;
    if (!o->cfg->watch)
        return show(o, 0);
    sigemptyset(&end);
    sigaddset(&end, SIGINT);
    sigaddset(&end, SIGTERM);
    sigaddset(&end, SIGHUP);
    sigprocmask(SIG_BLOCK, &end, NULL);
    static char frame[FRAME_BYTES]; /* written at once, so that it does not flicker */
    setvbuf(stdout, frame, _IOFBF, sizeof frame);
    for (uint64_t n = 0;; n++) {
        struct timespec pause = {WATCH_EVERY_MS / 1000, 0};
        int status = show(o, n);
        if (status == EX_SOFTWARE || fflush(stdout) != 0) /* e.g. head(1) has seen enough */
            return status ? status : EX_IOERR;
        if (sigtimedwait(&end, NULL, &pause) > 0)
            return 0;
    }
}
