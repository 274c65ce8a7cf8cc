/*
 * `tierd check`: the catalogue against the disks. For when Redis lost everything, a disk was
 * replaced, or somebody wants to know.
 *
 * Two passes: over the rows (is each content where its row says, and nowhere else?), then over the
 * directories (does each file belong to a row?). With --repair a row whose file stands only at
 * another level is corrected (at several: when all hold the same), and a second copy is handed to
 * the workers, whose retirement decides. What a retirement left beside the content's own place is
 * out of their sight: it is put back when the content is missing there, and removed when it is the
 * same to the byte. Whatever a job is under way for is left alone, unknown files always.
 *
 * What is found is looked at twice: a move that ends between the reading of a row and the look at a
 * level makes a content look misplaced. The second look is under the claim of the content, so that
 * nothing moves it, with its row read anew. Between levels that overlap nothing is mended.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/name.h"
#include "fs/alias.h"
#include "fs/file.h"
#include "fs/level.h"
#include "fs/overlaps.h"
#include "fs/path.h"
#include "fs/retire.h"
#include "job/catalog.h"
#include "job/watch.h"
#include "ops/ops.h"

enum {
    PAGE_ROWS = 1000,
    DEPTH_MAX = 64,   /* deeper than any name of the catalogue can be useful */
    LEASE_MS = 60000, /* while a row or a file is mended */
    PROBE_OLD_S = 60, /* who made it looked at once */
    HOLDER_BYTES = 64,
    FILE_BYTES = 80, /* "2026-11-24 10:00:00 UTC, 18446744073709551615 bytes" */
    TEXT_BYTES = 2 * JOB_LEVEL_BYTES + 2 * FILE_BYTES + 256,
    PATH_BYTES = NAME_PATH_MAX + NAME_COMPONENT_MAX + 2,
};

struct check {
    struct ops *o;
    int dirs[LADDER_MAX_LEVELS];          /* of the ladder's levels, -1: cannot be used */
    struct stat stats[LADDER_MAX_LEVELS]; /* of those */
    struct overlaps overlaps;
    bool mixed[LADDER_MAX_LEVELS]; /* it overlaps with another: nothing is mended there */
    size_t n_unusable, n_overlaps;
    bool sure;          /* the second look, under the claim */
    uint64_t suspected; /* in the first look, */
    bool lost;          /* also that it is not where its row says */
    bool waits; /* something is under way, and nobody has it: only what is lost is a finding */
    size_t copies[LADDER_MAX_LEVELS], n_copies; /* levels with a second copy, to be handed over */
    bool corrected;                             /* the row at hand was */
    char holder[HOLDER_BYTES];
    uint64_t handed_cid; /* the workers have it from us */
    uint64_t last_cid, idle_cid, rows, files, good, busy, found, mended;
    int error; /* -errno: Redis or the database went away */
};

/* ---- what is said ---- */

#define HANDED "a worker looks at it and takes it away"

enum kind {
    MISSING,
    ELSEWHERE,
    SECOND_COPY,
    DIFFERENT,
    UNKNOWN,
    LEFTOVER,
    BAD_NAME,
    UNREADABLE,
    NO_LEVEL,
    BAD_TABLE,
    UNCOMMITTED,
};

static const char *const kind_names[] = {"missing",  "elsewhere", "second-copy", "different",
                                         "unknown",  "leftover",  "bad-name",    "unreadable",
                                         "no-level", "bad-table", "uncommitted"};

struct finding {
    enum kind is;
    uint64_t cid; /* 0: of no content */
    const char *name;
    const char *level;    /* of the row, or NULL */
    const char *found_in; /* the level with what the finding is about, or NULL */
    const char *newer;    /* of two different files the level with the newer one, or NULL */
    const char *text;
    const char *mended; /* what was done about it, or NULL */
};

static void add_member(struct buf *b, const char *key, const char *text) {
    buf_addf(b, ", \"%s\": ", key);
    if (text)
        buf_add_json(b, str_view(text));
    else
        buf_add_str(b, "null");
}

static void add_object(struct buf *b, const struct finding *f, const char *id) {
    buf_addf(b, "{\"finding\": \"%s\"", kind_names[f->is]);
    add_member(b, "cid", f->cid ? id : NULL);
    add_member(b, "filename", f->name);
    add_member(b, "level", f->level);
    add_member(b, "found_in", f->found_in);
    add_member(b, "newer", f->newer);
    add_member(b, "text", f->text);
    add_member(b, "mended", f->mended);
    buf_add_str(b, "}");
}

/* One line a finding: words that a person and awk can read, or an object of JSON. Nothing in the
 * first look, which only suspects. */
static void report(struct check *c, const struct finding *f) {
    struct buf b;
    char id[JOB_CID_DIGITS] = "-";
    bool lost = f->is == MISSING || f->is == ELSEWHERE;
    if (!c->sure) {
        c->suspected++;
        c->lost |= lost;
        return;
    }
    if (c->waits && !lost && f->is != UNCOMMITTED)
        return;
    c->found++;
    c->mended += f->mended ? 1 : 0;
    buf_init(&b, 16 * NAME_PATH_MAX);
    if (f->cid)
        snprintf(id, sizeof id, "%" PRIu64, f->cid);
    if (c->o->cfg->json) {
        add_object(&b, f, id);
    } else {
        buf_addf(&b, "%-12s %-8s ", kind_names[f->is], id);
        buf_add_json(&b, str_view(f->name)); /* a name may hold anything */
        buf_addf(&b, ": %s%s%s", f->text, f->mended ? "; " : "", f->mended ? f->mended : "");
    }
    printf("%.*s\n", (int)b.len, b.data ? b.data : "");
    buf_release(&b);
}

static const char *level_name(const struct check *c, size_t i) {
    return c->o->ladder.levels[i].name;
}

/* The place of a level in the ladder; false: there is no such level. */
static bool level_index(const struct check *c, const char *name, size_t *i) {
    const struct level *l = ladder_find(&c->o->ladder, str_view(name));
    *i = l ? (size_t)(l - c->o->ladder.levels) : 0;
    return l != NULL;
}

/* Whether anything is mended now in level `i`, of a content that is to be at `level`. */
static bool mends(const struct check *c, size_t i, const char *level) {
    size_t own;
    return c->o->cfg->repair && c->sure && !c->mixed[i] &&
           !(level_index(c, level, &own) && c->mixed[own]);
}

/* ---- levels ---- */

struct id_query {
    const char *level;
    char *id;
};

static void take_id(void *ctx, struct str_view level, struct str_view id) {
    struct id_query *q = ctx;
    if (str_is(level, q->level))
        (void)str_copy(q->id, LEVEL_ID_BYTES, id);
}

static bool known_id(struct check *c, const char *level, char id[LEVEL_ID_BYTES]) {
    struct id_query q = {level, id};
    int rc = queue_level_ids(c->o->redis, take_id, &q);
    c->error = rc < 0 ? rc : c->error;
    return rc == 0;
}

static void judge_levels(struct check *c) {
    ops_overlaps(c->o, &c->overlaps);
    for (size_t a = 0; a < c->o->ladder.len; a++)
        for (size_t b = a + 1; b < c->o->ladder.len; b++)
            if (ops_say_overlap(c->o, &c->overlaps, a, b)) {
                c->mixed[a] = c->mixed[b] = true;
                c->n_overlaps++;
            }
}

/* Why a level cannot be looked at, and that its contents are not. */
static void refuse_level(struct check *c, const struct level *l, int rc, enum level_check mark) {
    c->n_unusable++;
    if (rc == -ESTALE)
        log_refusal("level %s: %s %s", l->name, l->path, level_check_text(mark));
    else
        log_refusal("level %s: %s: %s; its contents are not looked at", l->name, l->path,
                    rc == -EXDEV       ? "lies under none of the roots"
                    : rc == -ETIMEDOUT ? OPS_HANGS_TEXT
                                       : log_errno_text(rc));
}

static void open_levels(struct check *c) {
    const struct config *cfg = c->o->cfg;
    const struct level_terms terms = {(const char *const *)cfg->roots, (size_t)cfg->n_roots,
                                      cfg->require_markers};
    for (size_t i = 0; i < c->o->ladder.len; i++) {
        const struct level *l = &c->o->ladder.levels[i];
        char known[LEVEL_ID_BYTES] = "";
        struct level_dir d;
        if (!known_id(c, l->name, known))
            return;
        d = (struct level_dir){.fd = -1};
        int rc = c->o->hangs[i] ? -ETIMEDOUT : level_open(l->name, l->path, known, &terms, &d);
        if (rc < 0 || fstat(d.fd, &c->stats[i]) < 0)
            refuse_level(c, l, rc < 0 ? rc : -errno, d.mark);
        else if (d.mark == LEVEL_UNMARKED)
            log_refusal("level %s: %s %s", l->name, l->path, level_check_text(d.mark));
        c->dirs[i] = d.fd;
    }
}

/* Whether two levels overlap, so that a file in one of them is no copy of that in the other. */
static bool overlap(const struct check *c, size_t a, size_t b) {
    return a != b && overlaps_between(&c->overlaps, &a, &b) != OVERLAP_NONE;
}

/* ---- rows ---- */

/* What stands under `name` at a level: MOVE_OK with *fd and *st. */
static enum move_rc look(int level, const char *name, int *fd, struct stat *st) {
    int dir = path_open_parent(level, name);
    if (dir < 0)
        return file_classify(errno);
    enum move_rc rc = file_open_regular(dir, path_leaf(name), fd, st);
    path_close(&dir);
    return rc;
}

/* Whether something is under way with the content, so that what is seen means nothing. But whatever
 * a move is at, its content stands where the row says: when it does not (`lost`), and nobody is at
 * it, that is looked at. It may wait for ever, if no worker lives. */
static bool busy(struct check *c, uint64_t cid, bool lost) {
    c->waits = false;
    if (cid == c->idle_cid)
        return false; /* what is under way by now we handed over ourselves */
    int rc = queue_busy(c->o->redis, cid);
    c->waits = rc == QUEUE_WAITS && lost;
    if (rc < 0)
        c->error = rc;
    else if (rc == QUEUE_IDLE)
        c->idle_cid = cid;
    else
        c->busy += !c->waits;
    return rc != QUEUE_IDLE && !c->waits;
}

/* Takes the claim of a content, so that no worker touches it meanwhile. */
static bool claim(struct check *c, uint64_t cid, bool lost) {
    if (busy(c, cid, lost))
        return false;
    snprintf(c->holder, sizeof c->holder, "check.%ld", (long)getpid());
    int rc = queue_lock(c->o->redis, cid, c->holder, LEASE_MS);
    c->error = rc < 0 ? rc : c->error;
    c->busy += rc == 0;
    c->sure = rc > 0;
    return rc > 0;
}

static void unclaim(struct check *c, uint64_t cid) {
    int rc = queue_unlock(&c->o->queue, c->o->redis, cid, c->holder);
    c->error = rc < 0 ? rc : c->error;
}

/* Has a worker judge the copy at `level`, and take it away. Whether it will. */
static bool hand_over(struct check *c, const struct content *row, size_t level) {
    int rc = queue_spare(&c->o->queue, c->o->redis, row->cid, row->level, level_name(c, level));
    c->error = rc < 0 ? rc : c->error;
    if (rc > 0)
        c->handed_cid = row->cid;
    return rc > 0;
}

static const char *file_text(const struct stat *st, char out[FILE_BYTES]) {
    struct tm tm;
    char when[32] = "?";
    if (gmtime_r(&st->st_mtim.tv_sec, &tm))
        strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", &tm);
    snprintf(out, FILE_BYTES, "%s UTC, %" PRIu64 " bytes", when, (uint64_t)st->st_size);
    return out;
}

/* Which of two different files was written later: > 0 `a`, < 0 `b`, 0 both at once. */
static int newer(const struct stat *a, const struct stat *b) {
    if (a->st_mtim.tv_sec != b->st_mtim.tv_sec)
        return a->st_mtim.tv_sec > b->st_mtim.tv_sec ? 1 : -1;
    return (a->st_mtim.tv_nsec > b->st_mtim.tv_nsec) - (a->st_mtim.tv_nsec < b->st_mtim.tv_nsec);
}

/* Two files of one name: which is the right one a person must say, who is told what can be told. */
static void different(struct check *c, const struct content *row, size_t level,
                      const struct stat *st, const struct stat *auth_st) {
    char text[TEXT_BYTES], here[FILE_BYTES], there[FILE_BYTES];
    int by = newer(st, auth_st);
    const char *place = level_name(c, level), *later = by > 0 ? place : by < 0 ? row->level : NULL;
    snprintf(text, sizeof text,
             "a different file stands in %s besides the one in %s; %s%s (%s: %s; %s: %s)", place,
             row->level, later ? "the newer one is in " : "both are of the same time",
             later ? later : "", place, file_text(st, here), row->level, file_text(auth_st, there));
    report(c, &(struct finding){DIFFERENT, row->cid, row->filename, row->level, place, later, text,
                                NULL});
}

/* A second copy: is it the same? `auth` is the open authoritative one. */
static void second_copy(struct check *c, const struct content *row, size_t level, int auth,
                        const struct stat *auth_st) {
    char text[TEXT_BYTES];
    struct stat st = {0};
    int fd = -1;
    struct finding f = {UNREADABLE,           row->cid, row->filename, row->level,
                        level_name(c, level), NULL,     text,          NULL};
    enum move_rc rc = look(c->dirs[level], row->filename, &fd, &st);
    if (rc == MOVE_MISSING || rc == MOVE_BAD_PATH) {
        path_close(&fd);
        return;
    }
    int same = rc == MOVE_OK && c->sure && st.st_size == auth_st->st_size
                   ? file_identical(auth, fd, (uint64_t)st.st_size, NULL, NULL)
                   : 0;
    path_close(&fd);
    if (same < 0)
        rc = MOVE_IO;
    if (rc != MOVE_OK && rc != MOVE_NOT_REGULAR) {
        snprintf(text, sizeof text, "in %s: %s", level_name(c, level), move_rc_text(rc));
        report(c, &f);
    } else if (same == 1) {
        c->copies[c->n_copies++] = level; /* said when it is handed over */
    } else {
        different(c, row, level, &st, auth_st);
    }
}

/* Hands what was found to be second copies to the workers, who can claim the content again by now,
 * and says so. */
static void report_copies(struct check *c, const struct content *row) {
    char text[TEXT_BYTES];
    for (size_t i = 0; i < c->n_copies; i++) {
        size_t level = c->copies[i];
        struct finding f = {SECOND_COPY,          row->cid, row->filename, row->level,
                            level_name(c, level), NULL,     text,          NULL};
        snprintf(text, sizeof text, "a copy stands in %s besides the one in %s",
                 level_name(c, level), row->level);
        if (mends(c, level, row->level) && hand_over(c, row, level))
            f.mended = HANDED;
        report(c, &f);
    }
    c->n_copies = 0;
}

/* Where else a content stands that is not where its row says. */
struct places {
    size_t n, first, unclear;
    int fd;                                     /* of the first, or -1, */
    struct stat st;                             /* and its */
    size_t others[LADDER_MAX_LEVELS], n_others; /* the same stands there, */
    size_t n_differ;                            /* and so often another file */
};

/* One more, besides the first; compared in the look that counts alone. */
static void add_place(struct check *c, struct places *p, size_t level, int fd,
                      const struct stat *st) {
    p->n++;
    if (!c->sure)
        return;
    int same = st->st_size == p->st.st_size
                   ? file_identical(p->fd, fd, (uint64_t)st->st_size, NULL, NULL)
                   : 0;
    if (same == 1)
        p->others[p->n_others++] = level;
    p->n_differ += same == 0;
    p->unclear += same < 0;
}

static void find_places(struct check *c, const struct content *row, struct places *p) {
    *p = (struct places){.fd = -1};
    for (size_t i = 0; i < c->o->ladder.len; i++) {
        struct stat st = {0};
        int fd = -1;
        if (c->dirs[i] < 0 || strcmp(level_name(c, i), row->level) == 0)
            continue;
        enum move_rc rc = look(c->dirs[i], row->filename, &fd, &st);
        p->unclear += rc != MOVE_OK && rc != MOVE_MISSING;
        if (rc == MOVE_OK && p->n == 0) {
            p->n = 1;
            p->first = i;
            p->fd = fd;
            p->st = st;
            fd = -1;
        } else if (rc == MOVE_OK && !overlap(c, p->first, i)) {
            add_place(c, p, i, fd, &st);
        }
        path_close(&fd);
    }
}

/* Corrects a row to the first of the places, where it may be: what is done about it, or NULL with
 * the reason in `why`, if there is one to be told. The others are second copies from then on. */
static const char *correct(struct check *c, const struct content *row, const struct places *p,
                           const char **why) {
    struct content other;
    if (p->n == 0 || p->n_differ + p->unclear + c->n_unusable || !mends(c, p->first, row->level))
        return NULL;
    int rc = catalog_by_name(c->o->db, str_view(row->filename), row->cid, &other);
    enum move_rc settled =
        rc == 0 ? file_settle(c->dirs[p->first], row->filename, p->fd, &p->st) : MOVE_OK;
    if (rc > 0 || settled != MOVE_OK) {
        *why = rc > 0 ? "another content has that name" : move_rc_text(settled);
        return NULL;
    }
    rc = rc < 0 ? rc : catalog_correct(c->o->db, row, level_name(c, p->first));
    c->error = rc < 0 ? rc : c->error;
    if (rc <= 0)
        return NULL;
    c->corrected = true;
    memcpy(c->copies, p->others, p->n_others * sizeof *p->others);
    c->n_copies = p->n_others;
    return "the row is corrected";
}

/* The authoritative copy is missing, or its level is: where else does the content stand? */
static void search(struct check *c, const struct content *row, bool has_level) {
    char text[TEXT_BYTES];
    struct places p;
    const char *why = NULL;
    find_places(c, row, &p);
    struct finding f = {!has_level ? NO_LEVEL
                        : p.n      ? ELSEWHERE
                                   : MISSING,
                        row->cid,
                        row->filename,
                        row->level,
                        p.n ? level_name(c, p.first) : NULL,
                        NULL,
                        text,
                        NULL};
    f.mended = correct(c, row, &p, &why);
    int n = snprintf(text, sizeof text, "it should be in %s%s", row->level,
                     has_level ? "" : ", which is no level of the catalogue,");
    char *rest = text + n;
    size_t left = sizeof text - (size_t)n;
    if (p.n == 0)
        snprintf(rest, left, " and stands at no level%s",
                 c->n_unusable ? " that could be looked at" : "");
    else if (p.n == 1)
        snprintf(rest, left, " and stands in %s%s%s", f.found_in, why ? ", where it is left: " : "",
                 why ? why : "");
    else
        snprintf(rest, left, " and stands at %zu other levels, in %s first%s%s", p.n, f.found_in,
                 why          ? ", where it is left: "
                 : p.n_differ ? "; they hold different files"
                              : "",
                 why ? why : "");
    report(c, &f);
    path_close(&p.fd);
}

/* One look at a content. */
static void look_at_row(struct check *c, const struct content *row) {
    struct stat st = {0};
    size_t level;
    int fd = -1;
    struct finding f = {BAD_NAME, row->cid, row->filename, row->level, NULL, NULL, NULL, NULL};
    enum name_check name = name_check(row->filename);
    if (name != NAME_OK) {
        f.text = name_check_text(name);
        report(c, &f);
        return;
    }
    if (!level_index(c, row->level, &level)) {
        search(c, row, false);
        return;
    }
    if (c->dirs[level] < 0)
        return; /* said once for the level */
    enum move_rc rc = look(c->dirs[level], row->filename, &fd, &st);
    if (rc == MOVE_MISSING) {
        search(c, row, true);
    } else if (rc != MOVE_OK) {
        f.is = UNREADABLE;
        f.text = move_rc_text(rc);
        report(c, &f);
    } else {
        for (size_t i = 0; i < c->o->ladder.len && !c->error; i++)
            if (i != level && c->dirs[i] >= 0 && !overlap(c, i, level))
                second_copy(c, row, i, fd, &st);
    }
    path_close(&fd);
}

/* What a job ended for is mended, and so is what one waits for: it is due now. What is superfluous
 * goes to the workers. */
static void go_on(struct check *c, struct content *row) {
    enum watch_retried how;
    int rc = catalog_content(c->o->db, row->cid, row);
    if (rc > 0)
        report_copies(c, row);
    if (rc >= 0)
        rc = watch_retry(&c->o->queue, c->o->redis, row->cid, &how);
    c->error = rc < 0 ? rc : c->error;
}

/* The look that counts. True: all is in order after all, or the row is gone. */
static bool look_again(struct check *c, uint64_t cid) {
    struct content row;
    uint64_t found = c->found;
    if (!claim(c, cid, c->lost))
        return false;
    int rc = catalog_content(c->o->db, cid, &row);
    c->error = rc < 0 ? rc : c->error;
    if (rc > 0)
        look_at_row(c, &row);
    unclaim(c, cid);
    if (c->corrected && !c->error)
        go_on(c, &row);
    else if (rc > 0 && !c->error && !c->waits)
        report_copies(c, &row);
    bool good = c->found == found && !c->waits;
    c->busy += c->waits && c->found == found;
    c->sure = c->waits = c->corrected = false;
    c->n_copies = 0;
    return good;
}

static void check_row(void *ctx, const struct content *row) {
    struct check *c = ctx;
    c->last_cid = row->cid;
    c->rows++;
    if (c->error)
        return;
    c->suspected = 0;
    c->lost = false;
    look_at_row(c, row);
    c->good += c->suspected == 0 || look_again(c, row->cid);
}

static int check_rows(struct check *c) {
    int n;
    do {
        n = catalog_page(c->o->db, c->last_cid, PAGE_ROWS, check_row, c);
    } while (n == PAGE_ROWS && !c->error);
    return n < 0 ? n : c->error;
}

/* ---- files ---- */

/* What is said of a name below a level, whose row is not asked about its place. */
static void report_file(struct check *c, enum kind is, uint64_t cid, size_t level, const char *path,
                        const char *text, const char *mended) {
    report(c, &(struct finding){is, cid, path, NULL, level_name(c, level), NULL, text, mended});
}

/* Appends which of two different files in a folder was written later, where that can be told. */
static void add_newer(char *text, size_t cap, int dir, const char *a, const char *b) {
    struct stat x, y;
    char first[FILE_BYTES], second[FILE_BYTES];
    size_t n = strlen(text);
    if (fstatat(dir, a, &x, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(x.st_mode) ||
        fstatat(dir, b, &y, AT_SYMLINK_NOFOLLOW) < 0 || newer(&x, &y) == 0)
        return;
    snprintf(text + n, cap - n, "; the newer one is %s (%s; the other: %s)",
             newer(&x, &y) > 0 ? "the private one" : "the content",
             file_text(newer(&x, &y) > 0 ? &x : &y, first),
             file_text(newer(&x, &y) > 0 ? &y : &x, second));
}

/* Workers retire copies at other levels alone; this one is for us, or for a person. */
static void check_old(struct check *c, size_t level, int dir, const char *path,
                      const struct content *row) {
    static const struct {
        const char *text, *mended;
    } words[] = {
        [RETIRE_LEFT_ALONE] = {"the content itself is missing beside it", "it is put back"},
        [RETIRE_LEFT_SAME] = {"it is the same as the content beside it", "it is removed"},
        [RETIRE_LEFT_DIFFERENT] =
            {"it differs from the content beside it: compare them, and keep the right "
             "one under the content's name",
             NULL},
        [RETIRE_LEFT_EMPTY] = {"it is an empty folder", "it is removed"},
        [RETIRE_LEFT_UNCLEAR] = {"it, or the content beside it, cannot be read or is in use", NULL},
    };
    char text[TEXT_BYTES];
    const char *leaf = path_leaf(path);
    enum retire_left is = retire_judge_left(dir, leaf, path_leaf(row->filename));
    bool mended = words[is].mended && mends(c, level, row->level) &&
                  retire_mend_left(dir, leaf, path_leaf(row->filename), is);
    snprintf(text, sizeof text, "an interrupted move left it in %s, where the content is; %s",
             level_name(c, level), words[is].text);
    if (is == RETIRE_LEFT_DIFFERENT)
        add_newer(text, sizeof text, dir, leaf, path_leaf(row->filename));
    report(c, &(struct finding){LEFTOVER, row->cid, path, row->level, level_name(c, level), NULL,
                                text, mended ? words[is].mended : NULL});
}

static bool same_folder(const char *a, const char *b) {
    size_t n = (size_t)(path_leaf(a) - a);
    return n == (size_t)(path_leaf(b) - b) && memcmp(a, b, n) == 0;
}

static bool begins(const char *leaf, const char *prefix) {
    return strncmp(leaf, prefix, strlen(prefix)) == 0;
}

static bool is_old(const char *leaf) {
    return begins(leaf, NAME_PRIVATE_PREFIX "-old.");
}

/* What an interrupted move left, under the claim of its content; or without it, of a content that
 * the workers have from us: they get this, too, or it is left to them. */
static void check_left(struct check *c, size_t level, int dir, const char *path, uint64_t cid,
                       bool claimed) {
    char text[TEXT_BYTES];
    struct stat st;
    struct content row;
    const char *leaf = path_leaf(path), *mended = NULL;
    bool old = is_old(leaf), hand = false;
    int rc = old ? catalog_content(c->o->db, cid, &row) : 0;
    c->error = rc < 0 ? rc : c->error;
    bool gone = fstatat(dir, leaf, &st, AT_SYMLINK_NOFOLLOW) < 0;
    bool beside = rc > 0 && same_folder(path, row.filename);
    bool own = beside && strcmp(row.level, level_name(c, level)) == 0;
    if (!gone && own && claimed)
        check_old(c, level, dir, path, &row);
    else if (!old && claimed &&
             mends(c, level, "")) /* never a content's only copy: it was not published */
        mended = file_drop_temp(dir, cid, NULL) ? "it is removed" : NULL;
    else
        hand = beside && mends(c, level, row.level);
    if (claimed)
        unclaim(c, cid);
    if (gone || own || c->error)
        return;
    if (hand && hand_over(c, &row, level))
        mended = HANDED;
    snprintf(text, sizeof text, "an interrupted move left it in %s%s", level_name(c, level),
             !old || beside ? ""
                            : ", and no row names a content there: move it to where it belongs");
    report(c, &(struct finding){LEFTOVER, cid, path, beside ? row.level : NULL,
                                level_name(c, level), NULL, text, mended});
}

/* What a killed process left that looked whether levels overlap: it is nobody's content. */
static void check_probe(struct check *c, size_t level, int dir, const char *path) {
    char text[TEXT_BYTES];
    struct stat st;
    const char *leaf = path_leaf(path), *mended = NULL;
    if (fstatat(dir, leaf, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return;
    time_t since = st.st_nlink > 1 ? st.st_ctime : st.st_mtime; /* a link has the copy's mtime */
    if (time(NULL) - since < PROBE_OLD_S)
        return;
    bool nothing = S_ISREG(st.st_mode) && (st.st_size == 0 || st.st_nlink > 1);
    if (nothing && mends(c, level, "") && unlinkat(dir, leaf, 0) == 0)
        mended = "it is removed";
    snprintf(text, sizeof text, "a look whether levels overlap left it in %s%s",
             level_name(c, level), nothing ? "" : "; it holds something: look at it");
    report_file(c, LEFTOVER, 0, level, path, text, mended);
}

/* A name that tierd made for itself. */
static void check_private(struct check *c, size_t level, int dir, const char *path) {
    const char *leaf = path_leaf(path);
    uint64_t cid = 0;
    c->sure = true; /* each of these looks counts */
    if (begins(leaf, ALIAS_PROBE_PREFIX))
        check_probe(c, level, dir, path);
    else if ((is_old(leaf) || begins(leaf, NAME_PRIVATE_PREFIX "-tmp.")) &&
             job_cid_parse(str_view(leaf + 11), &cid) == 0) {
        bool claimed = cid != c->handed_cid && claim(c, cid, false);
        if (claimed || cid == c->handed_cid)
            check_left(c, level, dir, path, cid, claimed);
    }
    c->sure = false;
}

/* Whether a row names a file: 1, 0, or -errno. */
static int is_named(struct check *c, const char *path) {
    struct content row;
    int rc = catalog_by_name(c->o->db, str_view(path), 0, &row);
    c->error = rc < 0 ? rc : c->error;
    return rc;
}

static void check_file(struct check *c, size_t level, int dir, const char *path) {
    char text[TEXT_BYTES];
    struct stat st;
    if (begins(path_leaf(path), NAME_PRIVATE_PREFIX)) {
        check_private(c, level, dir, path);
        return;
    }
    c->files++;
    if (is_named(c, path) != 0)
        return;
    if (fstatat(dir, path_leaf(path), &st, AT_SYMLINK_NOFOLLOW) < 0 || is_named(c, path) != 0)
        return; /* it went, or got its row meanwhile */
    snprintf(text, sizeof text, "it stands in %s and no row names it; it is left alone",
             level_name(c, level));
    c->sure = true;
    report_file(c, UNKNOWN, 0, level, path, text, NULL);
    c->sure = false;
}

/* Something that could not be looked at. */
static void unreadable(struct check *c, size_t level, const char *path, const char *why) {
    c->sure = true;
    report_file(c, UNREADABLE, 0, level, path, why, NULL);
    c->sure = false;
}

/* Whether a folder below a level is another level, whose files are looked at as its own. */
static bool is_level(const struct check *c, const struct stat *st) {
    for (size_t i = 0; i < c->o->ladder.len; i++)
        if (c->dirs[i] >= 0 && file_same_inode(st, &c->stats[i]))
            return true;
    return false;
}

/* NULL at the end, or with errno. */
static struct dirent *next_entry(DIR *d) {
    errno = 0;
    return readdir(d);
}

static void walk(struct check *c, size_t level, int dir, char *path, size_t len, int depth) {
    DIR *d = fdopendir(dir); /* takes the descriptor */
    if (!d || depth > DEPTH_MAX) {
        log_refusal("level %s: '%.256s' cannot be listed: %s", level_name(c, level), path,
                    d ? "it is too deep" : log_errno_text(-errno));
        c->found++;
        d ? closedir(d) : close(dir);
        return;
    }
    struct dirent *e;
    while (!c->error && (e = next_entry(d))) {
        struct stat st = {0};
        size_t n = strlen(e->d_name);
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
            (depth == 0 && strcmp(e->d_name, "lost+found") == 0))
            continue;
        if (len + n + 2 > PATH_BYTES) {
            unreadable(c, level, e->d_name, "its path is too long");
            continue;
        }
        memcpy(path + len, e->d_name, n + 1);
        if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
            if (errno != ENOENT) /* else it went meanwhile */
                unreadable(c, level, path, log_errno_text(-errno));
            continue;
        }
        if (!S_ISDIR(st.st_mode) || is_old(e->d_name)) { /* which may be a folder (fs/retire) */
            check_file(c, level, dirfd(d), path);
            continue;
        }
        if (is_level(c, &st))
            continue;
        int sub = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        path[len + n] = '/';
        path[len + n + 1] = '\0';
        if (sub >= 0)
            walk(c, level, sub, path, len + n + 1, depth + 1);
        else if (errno != ENOENT)
            unreadable(c, level, path, log_errno_text(-errno));
        path[len] = '\0';
    }
    if (!c->error && errno)
        unreadable(c, level, len ? path : level_name(c, level), log_errno_text(-errno));
    closedir(d);
}

static void check_files(struct check *c) {
    char path[PATH_BYTES] = "";
    for (size_t i = 0; i < c->o->ladder.len && !c->error; i++) {
        int dir = c->dirs[i] < 0 ? -1 : openat(c->dirs[i], ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dir >= 0)
            walk(c, i, dir, path, 0, 0);
    }
}

/* ---- jobs that other programs say to have done ---- */

/* Whether a JSON says that the content of `row` was moved, and the row does not: 1, 0 or -errno. */
static int is_uncommitted(struct check *c, uint64_t cid, struct str_view json, struct job *job,
                          struct content *row) {
    if (job_read(json, cid, job) != JOB_OK || job->status != JOB_DONE ||
        strcmp(job->target, job->db_level) == 0)
        return 0;
    int rc = catalog_content(c->o->db, cid, row);
    return rc <= 0 ? rc : strcmp(row->level, job->target) != 0;
}

static void report_uncommitted(struct check *c, const struct job *job, const struct content *row) {
    char text[TEXT_BYTES];
    struct finding f = {UNCOMMITTED, row->cid, row->filename, row->level, NULL, NULL, text, NULL};
    snprintf(text, sizeof text,
             "its job says that another program moved it from %s to %s, and its row does not",
             job->db_level, job->target);
    if (c->o->cfg->repair) {
        int rc = queue_look(&c->o->queue, c->o->redis, row->cid);
        c->error = rc < 0 ? rc : c->error;
        f.mended = rc < 0 ? NULL : "a worker looks at it";
    }
    report(c, &f);
}

/* First without the claim, then with it. */
static void check_done(void *ctx, uint64_t cid, struct str_view json) {
    struct check *c = ctx;
    struct job job;
    struct content row;
    char now[JOB_JSON_BYTES + 1];
    int rc = c->error ? 0 : is_uncommitted(c, cid, json, &job, &row);
    if (rc > 0 && claim(c, cid, true)) {
        rc = watch_json(c->o->redis, cid, now, sizeof now);
        rc = rc < 0 ? rc : is_uncommitted(c, cid, str_view(now), &job, &row);
        unclaim(c, cid);
        if (rc > 0)
            report_uncommitted(c, &job, &row);
        c->sure = c->waits = false;
    }
    c->error = rc < 0 ? rc : c->error;
}

static void check_dones(struct check *c) {
    uint64_t cursor = 0;
    do {
        int rc = queue_dones(&c->o->queue, c->o->redis, &cursor, check_done, c);
        c->error = rc < 0 ? rc : c->error;
    } while (cursor && !c->error);
}

/* ---- tables ---- */

static void on_misfit(void *ctx, bool misfit, const char *level, const char *why) {
    struct check *c = ctx;
    c->sure = true; /* of columns there is but one look */
    if (misfit)
        report(c, &(struct finding){BAD_TABLE, 0, level, level, NULL, NULL, why, NULL});
    else
        log_refusal("%s", why); /* as its owner may want it */
    c->sure = false;
}

/* ---- all of it ---- */

static int sum_up(const struct check *c) {
    bool repair = c->o->cfg->repair;
    if (c->error) {
        log_refusal("redis or the database went away: %s", log_errno_text(c->error));
        return EX_UNAVAILABLE;
    }
    int status = c->found > c->mended || c->n_unusable || c->n_overlaps ? 1 : 0;
    if (c->o->cfg->json) {
        printf("{\"contents\": %" PRIu64 ", \"in_order\": %" PRIu64 ", \"files\": %" PRIu64
               ", \"findings\": %" PRIu64 ", \"mended\": %" PRIu64
               ", \"repair\": %s, \"busy\": %" PRIu64
               ", \"levels_left_out\": %zu, \"overlaps\": %zu}\n",
               c->rows, c->good, c->files, c->found, c->mended, repair ? "true" : "false", c->busy,
               c->n_unusable, c->n_overlaps);
        return status;
    }
    printf("%" PRIu64 " content%s, %" PRIu64 " in order, %" PRIu64 " file%s, %" PRIu64 " finding%s",
           c->rows, ops_s(c->rows), c->good, c->files, ops_s(c->files), c->found, ops_s(c->found));
    if (repair)
        printf(", %" PRIu64 " mended", c->mended);
    if (c->busy)
        printf(", %" PRIu64 " under way and left alone", c->busy);
    if (c->n_unusable)
        printf(", %zu level%s not looked at", c->n_unusable, ops_s(c->n_unusable));
    if (c->n_overlaps)
        printf(", %zu pair%s of levels overlap", c->n_overlaps, ops_s(c->n_overlaps));
    puts(repair ? "" : "; nothing was changed");
    return status;
}

int ops_check(struct ops *o) {
    if (o->cfg->n_roots == 0) {
        log_refusal("--root is missing; check needs the directories under which levels lie");
        return EX_USAGE;
    }
    struct check *c = calloc(1, sizeof *c);
    if (!c)
        return EX_OSERR;
    c->o = o;
    for (size_t i = 0; i < LADDER_MAX_LEVELS; i++)
        c->dirs[i] = -1;
    ops_look_at_levels(o);
    judge_levels(c);
    c->error = catalog_fits(o->db, on_misfit, c);
    if (!c->error)
        open_levels(c);
    if (!c->error)
        c->error = check_rows(c);
    if (!c->error)
        check_dones(c);
    if (!c->error)
        check_files(c);
    int status = sum_up(c);
    for (size_t i = 0; i < o->ladder.len; i++)
        path_close(&c->dirs[i]);
    free(c);
    return status;
}
