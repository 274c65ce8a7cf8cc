/*
 * `tierd check`: the catalogue against the disks. For when Redis lost everything, a disk was
 * replaced, or somebody wants to know.
 *
 * Two passes: over the rows (is each content where its row says, and nowhere else?), then over the
 * directories (does each file belong to a row?). With --repair a row whose file stands only at
 * another level is corrected, and a second copy is handed to the workers, whose retirement decides.
 * What a retirement left beside the content's own place is out of their sight: it is put back when
 * the content is missing there, and removed when it is the same to the byte. Whatever a job is
 * under way for is left alone, unknown files always.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/log.h"
#include "base/name.h"
#include "fs/file.h"
#include "fs/level.h"
#include "fs/path.h"
#include "fs/retire.h"
#include "job/catalog.h"
#include "ops/ops.h"

enum {
    PAGE_ROWS = 1000,
    DEPTH_MAX = 64,   /* deeper than any name of the catalogue can be useful */
    LEASE_MS = 60000, /* while a row or a file is mended */
    HOLDER_BYTES = 64,
    PATH_BYTES = NAME_PATH_MAX + NAME_COMPONENT_MAX + 2,
};

struct check {
    struct ops *o;
    int dirs[LADDER_MAX_LEVELS]; /* of the ladder's levels, -1: cannot be used */
    size_t n_unusable;
    uint64_t last_cid, idle_cid, rows, files, good, busy, found, mended;
    int error; /* -errno: Redis or the database went away */
};

/* ---- what is said ---- */

#define HANDED "a worker looks at it and takes it away"

enum finding {
    MISSING,
    ELSEWHERE,
    SECOND_COPY,
    DIFFERENT,
    UNKNOWN,
    LEFTOVER,
    BAD_NAME,
    UNREADABLE,
};

static const char *const finding_names[] = {"missing", "elsewhere", "second-copy", "different",
                                            "unknown", "leftover",  "bad-name",    "unreadable"};

/* One line a finding: words that a person and awk can read, or an object of JSON. `mended`: what
 * was done about it, NULL for nothing. */
static void report(struct check *c, enum finding what, uint64_t cid, const char *name,
                   const char *text, const char *mended) {
    struct buf b;
    char id[JOB_CID_DIGITS] = "-";
    c->found++;
    c->mended += mended ? 1 : 0;
    buf_init(&b, 16 * NAME_PATH_MAX);
    if (cid)
        snprintf(id, sizeof id, "%" PRIu64, cid);
    if (c->o->cfg->json) {
        buf_addf(&b, "{\"finding\": \"%s\", \"cid\": ", finding_names[what]);
        buf_addf(&b, cid ? "\"%s\"" : "null", id);
        buf_add_str(&b, ", \"filename\": ");
        buf_add_json(&b, str_view(name));
        buf_add_str(&b, ", \"text\": ");
        buf_add_json(&b, str_view(text));
        buf_add_str(&b, ", \"mended\": ");
        if (mended)
            buf_add_json(&b, str_view(mended));
        else
            buf_add_str(&b, "null");
        buf_add_str(&b, "}");
    } else {
        buf_addf(&b, "%-12s %-8s ", finding_names[what], id);
        buf_add_json(&b, str_view(name)); /* a name may hold anything */
        buf_addf(&b, ": %s%s%s", text, mended ? "; " : "", mended ? mended : "");
    }
    printf("%.*s\n", (int)b.len, b.data ? b.data : "");
    buf_release(&b);
}

static const char *level_name(const struct check *c, size_t i) {
    return c->o->ladder.levels[i].name;
}

/* ---- levels ---- */

static bool known_id(struct check *c, const char *level, char id[LEVEL_ID_BYTES]);

static void open_levels(struct check *c) {
    const struct config *cfg = c->o->cfg;
    for (size_t i = 0; i < c->o->ladder.len; i++) {
        const struct level *l = &c->o->ladder.levels[i];
        char known[LEVEL_ID_BYTES] = "", id[LEVEL_ID_BYTES];
        c->dirs[i] =
            path_open_level(l->path, (const char *const *)cfg->roots, (size_t)cfg->n_roots);
        if (c->dirs[i] < 0) {
            log_refusal("level %s: %s: %s; its contents are not looked at", l->name, l->path,
                        c->dirs[i] == -EXDEV ? "lies under none of the roots"
                                             : log_errno_text(c->dirs[i]));
            c->dirs[i] = -1;
            c->n_unusable++;
            continue;
        }
        if (!known_id(c, l->name, known))
            return;
        enum level_check mark = level_check(c->dirs[i], l->name, known, id);
        if (mark != LEVEL_RIGHT)
            log_refusal("level %s: %s %s", l->name, l->path, level_check_text(mark));
        if (mark == LEVEL_RIGHT || (mark == LEVEL_UNMARKED && !cfg->require_markers))
            continue;
        path_close(&c->dirs[i]);
        c->n_unusable++;
    }
}

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

/* Whether something is under way with the content, so that what is seen means nothing. */
static bool busy(struct check *c, uint64_t cid) {
    if (cid == c->idle_cid)
        return false; /* what is under way by now we handed over ourselves */
    int rc = queue_busy(c->o->redis, cid);
    if (rc < 0)
        c->error = rc;
    else if (rc > 0)
        c->busy++;
    else
        c->idle_cid = cid;
    return rc != 0;
}

/* Makes a copy that will be the authoritative one durable: the file and its name. */
static int make_durable(int level, const char *name, int fd) {
    int dir = path_open_parent(level, name);
    int rc = dir < 0 || fsync(fd) < 0 || fsync(dir) < 0 ? -errno : 0;
    path_close(&dir);
    return rc;
}

/* Takes the claim of a content without a job, so that no worker touches it meanwhile. */
static bool claim(struct check *c, uint64_t cid, char holder[HOLDER_BYTES]) {
    snprintf(holder, HOLDER_BYTES, "check.%ld", (long)getpid());
    int rc = queue_lock(c->o->redis, cid, holder, LEASE_MS);
    c->error = rc < 0 ? rc : c->error;
    return rc > 0;
}

static void unclaim(struct check *c, uint64_t cid, const char *holder) {
    int rc = queue_unlock(&c->o->queue, c->o->redis, cid, holder);
    c->error = rc < 0 ? rc : c->error;
}

/* Corrects a row; whether it was. */
static bool correct(struct check *c, const struct content *row, size_t level, int fd) {
    char holder[HOLDER_BYTES];
    if (!claim(c, row->cid, holder))
        return false;
    int corrected = 0, rc = make_durable(c->dirs[level], row->filename, fd);
    if (rc < 0)
        log_refusal("cid %" PRIu64 ": the copy in %s cannot be made durable: %s", row->cid,
                    level_name(c, level), log_errno_text(rc));
    else if ((corrected = catalog_correct(c->o->db, row, level_name(c, level))) < 0)
        c->error = corrected;
    unclaim(c, row->cid, holder);
    return corrected > 0;
}

/* With --repair, has a worker judge the copy at `level`, and take it away. Whether it will. */
static bool hand_over(struct check *c, const struct content *row, size_t level) {
    if (!c->o->cfg->repair)
        return false;
    int rc = queue_spare(&c->o->queue, c->o->redis, row->cid, row->level, level_name(c, level));
    c->error = rc < 0 ? rc : c->error;
    return rc > 0;
}

/* A second copy: is it the same? `auth` is the open authoritative one. */
static void second_copy(struct check *c, const struct content *row, size_t level, int auth,
                        const struct stat *auth_st) {
    char text[JOB_LEVEL_BYTES + 128];
    struct stat st = {0};
    int fd = -1;
    enum move_rc rc = look(c->dirs[level], row->filename, &fd, &st);
    if (rc == MOVE_MISSING || rc == MOVE_BAD_PATH || busy(c, row->cid)) {
        path_close(&fd);
        return;
    }
    int same = rc == MOVE_OK && st.st_size == auth_st->st_size
                   ? file_identical(auth, fd, (uint64_t)st.st_size, NULL, NULL)
                   : 0;
    path_close(&fd);
    if (same < 0)
        rc = MOVE_IO;
    if (rc != MOVE_OK && rc != MOVE_NOT_REGULAR) {
        snprintf(text, sizeof text, "in %s: %s", level_name(c, level), move_rc_text(rc));
        report(c, UNREADABLE, row->cid, row->filename, text, NULL);
        return;
    }
    snprintf(text, sizeof text, "a %s stands in %s besides the one in %s",
             same == 1 ? "copy" : "different file", level_name(c, level), row->level);
    bool handed = same == 1 && hand_over(c, row, level);
    report(c, same == 1 ? SECOND_COPY : DIFFERENT, row->cid, row->filename, text,
           handed ? HANDED : NULL);
}

/* The authoritative copy is missing: where else does the content stand? */
static void search(struct check *c, const struct content *row) {
    char text[2 * JOB_LEVEL_BYTES + 160];
    size_t places = 0, at = 0, unclear = 0;
    int found = -1;
    for (size_t i = 0; i < c->o->ladder.len; i++) {
        struct stat st = {0};
        int fd = -1;
        if (c->dirs[i] < 0 || strcmp(level_name(c, i), row->level) == 0)
            continue;
        enum move_rc rc = look(c->dirs[i], row->filename, &fd, &st);
        unclear += rc != MOVE_OK && rc != MOVE_MISSING;
        if (rc != MOVE_OK)
            continue;
        if (places++ == 0) {
            at = i;
            found = fd;
        } else {
            path_close(&fd);
        }
    }
    if (busy(c, row->cid)) {
        path_close(&found);
        return;
    }
    if (places == 0)
        snprintf(text, sizeof text, "it should be in %s and stands at no level%s", row->level,
                 c->n_unusable ? " that could be looked at" : "");
    else if (places == 1)
        snprintf(text, sizeof text, "it should be in %s and stands in %s", row->level,
                 level_name(c, at));
    else
        snprintf(text, sizeof text,
                 "it should be in %s and stands at %zu other levels, in %s first", row->level,
                 places, level_name(c, at));
    bool corrected = places == 1 && c->n_unusable + unclear == 0 && c->o->cfg->repair &&
                     correct(c, row, at, found);
    report(c, places ? ELSEWHERE : MISSING, row->cid, row->filename, text,
           corrected ? "the row is corrected" : NULL);
    path_close(&found);
}

static void check_row(void *ctx, const struct content *row) {
    struct check *c = ctx;
    struct stat st = {0};
    int fd = -1;
    c->last_cid = row->cid;
    c->rows++;
    if (c->error)
        return;
    enum name_check name = name_check(row->filename);
    if (name != NAME_OK) {
        report(c, BAD_NAME, row->cid, row->filename, name_check_text(name), NULL);
        return;
    }
    const struct level *l = ladder_find(&c->o->ladder, str_view(row->level));
    size_t level = l ? (size_t)(l - c->o->ladder.levels) : 0;
    if (!l || c->dirs[level] < 0)
        return; /* said once for the level */
    uint64_t found = c->found;
    enum move_rc rc = look(c->dirs[level], row->filename, &fd, &st);
    if (rc == MOVE_MISSING)
        search(c, row);
    else if (rc != MOVE_OK)
        report(c, UNREADABLE, row->cid, row->filename, move_rc_text(rc), NULL);
    else
        for (size_t i = 0; i < c->o->ladder.len && !c->error; i++)
            if (i != level && c->dirs[i] >= 0)
                second_copy(c, row, i, fd, &st);
    path_close(&fd);
    c->good += c->found == found;
}

static int check_rows(struct check *c) {
    int n;
    do {
        n = catalog_page(c->o->db, c->last_cid, PAGE_ROWS, check_row, c);
    } while (n == PAGE_ROWS && !c->error);
    return n < 0 ? n : c->error;
}

/* ---- files ---- */

/* Puts it back, or removes it, if all is still as it was. Whether it did. */
static bool mend_old(struct check *c, int dir, const char *leaf, const struct content *row,
                     enum retire_left was) {
    char holder[HOLDER_BYTES];
    struct content again;
    bool done = false;
    if (!claim(c, row->cid, holder))
        return false;
    int rc = catalog_content(c->o->db, row->cid, &again);
    c->error = rc < 0 ? rc : c->error;
    if (rc > 0 && strcmp(again.level, row->level) == 0 &&
        strcmp(again.filename, row->filename) == 0)
        done = retire_mend_left(dir, leaf, path_leaf(row->filename), was);
    unclaim(c, row->cid, holder);
    return done;
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
    char text[JOB_LEVEL_BYTES + 256];
    const char *leaf = path_leaf(path);
    enum retire_left is = retire_judge_left(dir, leaf, path_leaf(row->filename));
    bool mended = words[is].mended && c->o->cfg->repair && mend_old(c, dir, leaf, row, is);
    snprintf(text, sizeof text, "an interrupted move left it in %s, where the content is; %s",
             level_name(c, level), words[is].text);
    report(c, LEFTOVER, row->cid, path, text, mended ? words[is].mended : NULL);
}

static bool same_folder(const char *a, const char *b) {
    size_t n = (size_t)(path_leaf(a) - a);
    return n == (size_t)(path_leaf(b) - b) && memcmp(a, b, n) == 0;
}

static bool is_old(const char *leaf) {
    return strncmp(leaf, NAME_PRIVATE_PREFIX "-old.", 11) == 0;
}

/* A name that tierd made for itself. */
static void check_private(struct check *c, size_t level, int dir, const char *path) {
    const char *leaf = path_leaf(path), *mended = NULL;
    char text[JOB_LEVEL_BYTES + 128];
    uint64_t cid = 0;
    struct content row;
    bool old = is_old(leaf);
    bool temp = strncmp(leaf, NAME_PRIVATE_PREFIX "-tmp.", 11) == 0;
    if ((!old && !temp) || job_cid_parse(str_view(leaf + 11), &cid) < 0 || busy(c, cid))
        return; /* a marker, or being written just now */
    int rc = old ? catalog_content(c->o->db, cid, &row) : 0;
    if (rc < 0) {
        c->error = rc;
        return;
    }
    bool beside = rc > 0 && same_folder(path, row.filename);
    if (beside && strcmp(row.level, level_name(c, level)) == 0) {
        check_old(c, level, dir, path, &row);
        return;
    }
    if (temp && c->o->cfg->repair) /* never a content's only copy: it was not published */
        mended = file_drop_temp(dir, cid, NULL) ? "it is removed" : NULL;
    else if (beside)
        mended = hand_over(c, &row, level) ? HANDED : NULL;
    snprintf(text, sizeof text, "an interrupted move left it in %s%s", level_name(c, level),
             temp || beside ? ""
                            : ", and no row names a content there: move it to where it belongs");
    report(c, LEFTOVER, cid, path, text, mended);
}

static void check_file(struct check *c, size_t level, int dir, const char *path) {
    char text[JOB_LEVEL_BYTES + 64];
    struct content row;
    c->files++;
    if (strncmp(path_leaf(path), NAME_PRIVATE_PREFIX, strlen(NAME_PRIVATE_PREFIX)) == 0) {
        check_private(c, level, dir, path);
        return;
    }
    int rc = catalog_by_name(c->o->db, str_view(path), &row);
    if (rc < 0)
        c->error = rc;
    if (rc != 0)
        return;
    snprintf(text, sizeof text, "it stands in %s and no row names it; it is left alone",
             level_name(c, level));
    report(c, UNKNOWN, 0, path, text, NULL);
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
            report(c, UNREADABLE, 0, e->d_name, "its path is too long", NULL);
            continue;
        }
        memcpy(path + len, e->d_name, n + 1);
        if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
            if (errno != ENOENT) /* else it went meanwhile */
                report(c, UNREADABLE, 0, path, log_errno_text(-errno), NULL);
            continue;
        }
        if (!S_ISDIR(st.st_mode) || is_old(e->d_name)) { /* which may be a folder (fs/retire) */
            check_file(c, level, dirfd(d), path);
            continue;
        }
        int sub = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        path[len + n] = '/';
        path[len + n + 1] = '\0';
        if (sub >= 0)
            walk(c, level, sub, path, len + n + 1, depth + 1);
        else if (errno != ENOENT)
            report(c, UNREADABLE, 0, path, log_errno_text(-errno), NULL);
        path[len] = '\0';
    }
    if (!c->error && errno)
        report(c, UNREADABLE, 0, len ? path : level_name(c, level), log_errno_text(-errno), NULL);
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

/* ---- all of it ---- */

static int sum_up(const struct check *c) {
    bool repair = c->o->cfg->repair;
    if (c->error) {
        log_refusal("redis or the database went away: %s", log_errno_text(c->error));
        return EX_UNAVAILABLE;
    }
    int status = c->found > c->mended || c->n_unusable ? 1 : 0;
    if (c->o->cfg->json) {
        printf("{\"contents\": %" PRIu64 ", \"in_order\": %" PRIu64 ", \"files\": %" PRIu64
               ", \"findings\": %" PRIu64 ", \"mended\": %" PRIu64
               ", \"repair\": %s, \"busy\": %" PRIu64 ", \"levels_left_out\": %zu}\n",
               c->rows, c->good, c->files, c->found, c->mended, repair ? "true" : "false", c->busy,
               c->n_unusable);
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
    open_levels(c);
    if (!c->error)
        c->error = check_rows(c);
    if (!c->error)
        check_files(c);
    int status = sum_up(c);
    for (size_t i = 0; i < o->ladder.len; i++)
        path_close(&c->dirs[i]);
    free(c);
    return status;
}
