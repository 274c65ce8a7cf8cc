#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/buf.h"
#include "base/causes.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/name.h"
#include "job/catalog.h"
#include "job/report.h"
#include "net/http_client.h"
#include "ops/ops.h"
#include "ops/term.h"
#include "queue/keys.h"

enum {
    LANES = 16, /* connections: the API handles together what comes on several, while of one it
                 * answers post after post */
    BATCH = 32, /* posts sent in one write over each */
    LINE_BYTES = 128, /* two numbers and blanks */
    IN_BYTES = 64 * 1024,
    FORM_BYTES = 64,
    TIMEOUT_MS = 10000,
    PROGRESS_MS = 200,
    TRIES = 3, /* of a batch that the server did not answer whole */
};

/* What goes over one connection next. All posts of a content take the same one: its last count
 * stands. */
struct lane {
    char text[BATCH][FORM_BYTES];
    const char *forms[BATCH];
    size_t n, answered;
    int tries; /* since the last answer */
};

/* One `tierd post`. */
struct posting {
    struct ops *o;
    struct http_client *client;
    struct level_use use[LADDER_MAX_LEVELS]; /* for a dry run */
    struct lane lanes[LANES];
    size_t unavailable; /* of what was sent together, answered with 5xx */
    uint64_t cid;       /* of a single one */
    struct causes said; /* what the API has refused with */
    uint64_t lines, posted, move, stay, refused;
    off_t size;           /* of a regular file on stdin, 0 otherwise */
    uint64_t taken_bytes; /* of the lines up to the last one that was taken */
    int64_t began_ms, shown_ms;
    bool single, progress;
    int status; /* 0, 1 or EX_UNAVAILABLE */
};

static void refuse(struct posting *p, uint64_t line, const char *why) {
    p->refused++;
    if (p->status == 0)
        p->status = 1;
    if (!line && !causes_is_new(&p->said, "", why, 0)) /* a line is named by its number */
        return;
    if (p->progress)
        fputs("\r\033[K", stderr);
    if (line)
        log_refusal("line %" PRIu64 ": %s", line, why);
    else
        log_refusal("%s", why);
}

static void say_again(void *ctx, const char *text, uint64_t more) {
    (void)ctx;
    log_refusal("%" PRIu64 " more times%s", more, text);
}

/* ---- what is said of one ---- */

/* Where it goes and why; of one that stays the reason alone, or (`why` is "") that it does. */
static void say_move(uint64_t cid, const char *name, const char *from, const char *to,
                     const char *why) {
    printf("%" PRIu64 "  ", cid);
    term_text(stdout, name, 0);
    fputs("  ", stdout);
    if (strcmp(from, to) != 0) {
        term_text(stdout, from, 0);
        fputs(" to ", stdout);
        term_text(stdout, to, 0);
        fputs(": ", stdout);
    } else if (!*why) {
        fputs("stays in ", stdout);
        term_text(stdout, from, 0);
    }
    term_text(stdout, why, 0);
    fputc('\n', stdout);
}

/* The same of a dry run, for programs. */
static void say_decision(const struct content *row, const char *to, const char *rule,
                         const char *why) {
    const struct {
        const char *key, *value;
    } members[] = {{"filename", row->filename},
                   {"from", row->level},
                   {"to", to},
                   {"rule", rule},
                   {"why", why}};
    struct buf b;
    buf_init(&b, 16 * NAME_PATH_MAX);
    buf_addf(&b, "{\"cid\": \"%" PRIu64 "\"", row->cid);
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        buf_addf(&b, ", \"%s\": ", members[i].key);
        buf_add_json(&b, str_view(members[i].value));
    }
    printf("%.*s}\n", (int)b.len, b.data ? b.data : "");
    buf_release(&b);
}

static void on_answer(void *ctx, int status, struct str_view body) {
    struct posting *p = ctx;
    yyjson_doc *doc = yyjson_read(body.ptr, body.len, 0);
    yyjson_val *root = yyjson_doc_get_root(doc);
    const char *error = yyjson_get_str(yyjson_obj_get(root, "error"));
    const char *job = yyjson_get_str(yyjson_obj_get(root, "status"));
    if (status == 200 && job) {
        const char *from = yyjson_get_str(yyjson_obj_get(root, "db_level"));
        const char *to = yyjson_get_str(yyjson_obj_get(root, "target"));
        const char *name = yyjson_get_str(yyjson_obj_get(root, "filename"));
        bool moves = from && to && strcmp(from, to) != 0;
        p->posted++;
        *(moves ? &p->move : &p->stay) += 1;
        if (p->single && p->o->cfg->json)
            printf("%.*s\n", STR_ARG(body));
        else if (p->single)
            say_move(p->cid, name ? name : "", from ? from : "", to ? to : "",
                     moves ? "it is queued" : "");
    } else {
        char text[256];
        snprintf(text, sizeof text, "%s", error ? error : "the API does not understand");
        refuse(p, 0, text);
        p->unavailable += status >= 500;
    }
    yyjson_doc_free(doc);
}

static void dry(struct posting *p, uint64_t cid, uint64_t count) {
    struct content row;
    char why[512];
    int rc = catalog_content(p->o->db, cid, &row);
    if (rc == 0) {
        snprintf(why, sizeof why, "the content with cid %" PRIu64 " does not exist", cid);
        refuse(p, 0, why);
        return;
    }
    if (rc < 0) {
        p->status = ops_away(rc);
        return;
    }
    struct policy_question q = {&p->o->ladder, row.level, count, row.age_ms, p->use};
    struct policy_answer a = policy_decide(&p->o->policy, &q);
    policy_sentence(&p->o->policy, &q, &a, why, sizeof why);
    const char *to = a.target ? a.target->name : "";
    bool moves = a.target && strcmp(to, row.level) != 0;
    *(moves ? &p->move : &p->stay) += 1;
    p->posted++;
    if (!moves && !p->single && a.rule <= POLICY_STAYS)
        return;
    if (p->o->cfg->json)
        say_decision(&row, to, policy_rule_name(a.rule), why);
    else
        say_move(cid, row.filename, row.level, to, why);
}

/* ---- batches ---- */

static_assert((int)LANES <= (int)HTTP_CLIENT_LINES, "HTTP_CLIENT_LINES");

static void show_progress(struct posting *p) {
    int64_t now_ms = clock_mono_ms();
    if (!p->progress || now_ms - p->shown_ms < PROGRESS_MS)
        return;
    p->shown_ms = now_ms;
    int64_t took_ms = now_ms - p->began_ms;
    fputs("\r\033[K", stderr);
    if (p->size > 0) {
        double share = (double)p->taken_bytes / (double)p->size;
        term_bar(stderr, share, 30);
        fprintf(stderr, " %3.0f%%  ", share * 100);
    }
    fprintf(stderr, "%" PRIu64 " posted, %.0f a second", p->posted,
            took_ms ? (double)p->posted * 1000 / (double)took_ms : 0.0);
}

/* Sends what is not answered yet. Whether something is left to be sent again. */
static bool send_rest(struct posting *p) {
    struct http_client_batch rest[LANES];
    bool left = false;
    for (size_t i = 0; i < LANES; i++) {
        struct lane *l = &p->lanes[i];
        rest[i] = (struct http_client_batch){l->forms + l->answered, l->n - l->answered, 0};
    }
    http_client_post_many(p->client, "/post_sentence", rest, LANES, TIMEOUT_MS, on_answer, p);
    for (size_t i = 0; i < LANES; i++) {
        struct lane *l = &p->lanes[i];
        int rc = rest[i].answered;
        l->answered += rc > 0 ? (size_t)rc : 0;
        l->tries = rc < 0 ? l->tries + 1 : 0;
        left = left || l->answered < l->n;
        if ((l->tries == TRIES || rc == -ECONNREFUSED) && p->status != EX_UNAVAILABLE) {
            log_refusal("the API at %s is away: %s", p->o->cfg->api, log_errno_text(rc));
            p->status = EX_UNAVAILABLE;
        }
    }
    return left && p->status != EX_UNAVAILABLE;
}

/* Forgets what is still to be posted; how much that was. */
static size_t empty(struct posting *p) {
    size_t n = 0;
    for (size_t i = 0; i < LANES; i++) {
        n += p->lanes[i].n;
        p->lanes[i].n = p->lanes[i].answered = 0;
    }
    return n;
}

static void flush(struct posting *p) {
    p->unavailable = 0;
    while (send_rest(p))
        ;
    size_t n = empty(p);
    if (n && p->unavailable == n) /* not one content's trouble: Redis or the database is away */
        p->status = EX_UNAVAILABLE;
    show_progress(p);
}

/* Cids that are so many apart, or all even, must not meet on one connection: a multiplication by
 * 2^64 over the golden ratio spreads them (Knuth, The Art of Computer Programming 3, 6.4). */
static struct lane *lane_of(struct posting *p, uint64_t cid) {
    return &p->lanes[(cid * UINT64_C(0x9E3779B97F4A7C15) >> 32) % LANES];
}

static void take(struct posting *p, uint64_t cid, uint64_t count) {
    if (p->o->cfg->dry_run) {
        dry(p, cid, count);
        return;
    }
    struct lane *l = lane_of(p, cid);
    char *form = l->text[l->n];
    snprintf(form, FORM_BYTES, "cid=%" PRIu64 "&count=%" PRIu64, cid, count);
    l->forms[l->n++] = form;
    if (l->n == BATCH)
        flush(p);
}

/* ---- stdin ---- */

static struct str_view word(struct str_view *line) {
    const char *blanks = " \t\r";
    while (line->len && strchr(blanks, *line->ptr)) {
        line->ptr++;
        line->len--;
    }
    size_t n = 0;
    while (n < line->len && !strchr(blanks, line->ptr[n]))
        n++;
    struct str_view w = {line->ptr, n};
    *line = (struct str_view){line->ptr + n, line->len - n};
    return w;
}

/* The two numbers; otherwise why not. */
static bool parse(struct str_view a, struct str_view b, uint64_t *cid, uint64_t *count,
                  char why[OPS_WHY_BYTES]) {
    if (job_cid_parse(a, cid) < 0)
        ops_no_cid(why, a);
    else if (job_count_parse(b, count) < 0)
        ops_no_count(why, b);
    else
        return true;
    return false;
}

static void take_line(struct posting *p, struct str_view line) {
    uint64_t cid, count;
    p->lines++;
    if (memchr(line.ptr, 0, line.len)) {
        refuse(p, p->lines, "it holds a NUL");
        return;
    }
    struct str_view a = word(&line), b = word(&line), rest = word(&line);
    if (a.len == 0)
        return;
    char why[OPS_WHY_BYTES] = "it is not 'cid count', two whole numbers";
    if (b.len && rest.len == 0 && parse(a, b, &cid, &count, why))
        take(p, cid, count);
    else
        refuse(p, p->lines, why);
}

/* Whole lines are posted as they come, so that a slow writer does not wait for a full batch. */
static int read_stdin(struct posting *p) {
    struct buf in;
    int rc = 0;
    buf_init(&in, IN_BYTES + LINE_BYTES);
    while (p->status != EX_UNAVAILABLE && (rc = buf_reserve(&in, 4096)) == 0) {
        ssize_t got = read(STDIN_FILENO, in.data + in.len, in.cap - in.len);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            rc = -errno;
        if (got <= 0)
            break;
        in.len += (size_t)got;
        const char *lf;
        size_t at = 0;
        while (p->status != EX_UNAVAILABLE && (lf = memchr(in.data + at, '\n', in.len - at))) {
            struct str_view line = {in.data + at, (size_t)(lf - in.data) - at};
            at += line.len + 1;
            p->taken_bytes += line.len + 1; /* before it is posted, with others, and shown */
            take_line(p, line);
        }
        buf_consume(&in, at);
        flush(p);
    }
    if (rc == 0 && in.len && p->status != EX_UNAVAILABLE) /* a last line without its end */
        take_line(p, buf_view(&in));
    buf_release(&in);
    return rc;
}

static void summary_text(const struct posting *p, double took_s) {
    printf("%" PRIu64 " posted", p->posted);
    if (p->posted && took_s > 0)
        printf(" in %.1f s (%.0f a second)", took_s, (double)p->posted / took_s);
    printf(": %" PRIu64 " move, %" PRIu64 " stay, %" PRIu64 " refused\n", p->move, p->stay,
           p->refused);
}

static void summary(const struct posting *p) {
    double took_s = (double)(clock_mono_ms() - p->began_ms) / 1000;
    bool is_dry = p->o->cfg->dry_run;
    if (p->progress)
        fputs("\r\033[K", stderr);
    if (p->o->cfg->json)
        printf("{\"dry_run\": %s, \"posted\": %" PRIu64 ", \"move\": %" PRIu64
               ", \"stay\": %" PRIu64 ", \"refused\": %" PRIu64 ", \"seconds\": %.3f}\n",
               is_dry ? "true" : "false", p->posted, p->move, p->stay, p->refused, took_s);
    else if (is_dry)
        printf("%" PRIu64 " of %" PRIu64 " would move, %" PRIu64 " stay, %" PRIu64
               " are refused; nothing was changed\n",
               p->move, p->posted + p->refused, p->stay, p->refused);
    else
        summary_text(p, took_s);
}

/* ---- the command ---- */

static int prepare(struct posting *p) {
    struct ops *o = p->o;
    redis_reply *reply;
    if (!o->cfg->dry_run)
        return http_client_new(o->cfg->api, &p->client) < 0 ? EX_USAGE : 0;
    int status = ops_need(o, OPS_DB | (o->cfg->max_use ? OPS_REDIS : 0));
    if (status || !o->cfg->max_use)
        return status;
    struct str_view args[] = {str_view("HGETALL"), str_view(KEY_USE)};
    int rc = redis_call(o->redis, args, 2, &reply);
    if (rc < 0)
        return ops_away(rc);
    report_use(reply, &o->ladder, p->use);
    redis_reply_free(reply);
    return 0;
}

static int post_one(struct posting *p) {
    uint64_t cid, count;
    struct ops *o = p->o;
    char why[OPS_WHY_BYTES] =
        "post takes a cid and a count, two whole numbers, or '-' for lines of stdin";
    if (o->n_args != 2 || !parse(str_view(o->args[0]), str_view(o->args[1]), &cid, &count, why)) {
        log_refusal("%s", why);
        return EX_USAGE;
    }
    p->single = true;
    p->cid = cid;
    take(p, cid, count);
    if (!o->cfg->dry_run)
        flush(p);
    else if (o->cfg->json)
        summary(p);
    return p->status;
}

static int post_lines(struct posting *p) {
    struct stat st;
    if (p->o->n_args != 1) {
        log_refusal("post - takes nothing more");
        return EX_USAGE;
    }
    if (fstat(STDIN_FILENO, &st) == 0 && S_ISREG(st.st_mode))
        p->size = st.st_size;
    p->progress = isatty(STDERR_FILENO) && !p->o->cfg->dry_run;
    int rc = read_stdin(p);
    if (rc < 0)
        refuse(p, p->lines + 1, rc == -ENOBUFS ? "it is too long" : log_errno_text(rc));
    flush(p);
    causes_tell(&p->said, INT64_MAX / 2, say_again, p);
    summary(p);
    return p->status;
}

int ops_post(struct ops *o) {
    struct posting p = {.o = o, .began_ms = clock_mono_ms()};
    int status = prepare(&p);
    if (status == 0)
        status = strcmp(o->args[0], "-") == 0 ? post_lines(&p) : post_one(&p);
    http_client_free(p.client);
    return status;
}
