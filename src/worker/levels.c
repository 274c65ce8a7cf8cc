#include "worker/levels.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/clock.h"
#include "fs/path.h"

enum {
    YOUNG_MS = 15000, /* so long we leave to the looker what it has not come back from */
    AGE_MS = 3000,    /* so old may the table be that moves go by */
    JUDGE_MS = 60000, /* between two looks whether levels overlap, while there is work: mounts
                       * change, and a probe writes to each disk */
    TEXT_BYTES = 1024,
};

void levels_init(struct levels *l, struct child *w) {
    *l = (struct levels){.w = w, .born_ms = clock_mono_ms()};
    ladder_init(&l->ladder);
    for (size_t i = 0; i < LADDER_MAX_LEVELS; i++)
        l->at[i].dir = -1;
}

void levels_close(struct levels *l) {
    for (size_t i = 0; i < LADDER_MAX_LEVELS; i++)
        path_close(&l->at[i].dir);
}

void levels_release(struct levels *l) {
    levels_close(l);
    ladder_release(&l->ladder);
}

static void know(void *ctx, struct str_view name, struct str_view id) {
    struct levels *l = ctx;
    const struct level *found = ladder_find(&l->ladder, name);
    if (found)
        (void)str_copy(l->at[found - l->ladder.levels].id, LEVEL_ID_BYTES, id);
}

/* Takes over what was read, unless it is what is known. */
static void replace(struct levels *l, struct ladder *read) {
    if (ladder_same(&l->ladder, read)) {
        ladder_release(read);
        return;
    }
    ladder_release(&l->ladder);
    l->ladder = *read;
    l->judged_ms = 0;
    memset(&l->overlaps, 0, sizeof l->overlaps);
    for (size_t i = 0; i < LADDER_MAX_LEVELS; i++)
        l->at[i].warned = l->at[i].used = false;
}

int levels_read(struct levels *l, bool fresh) {
    struct child *w = l->w;
    struct ladder read;
    if (!fresh && l->read_ms && clock_mono_ms() - l->read_ms < AGE_MS)
        return 0;
    levels_close(l);
    ladder_init(&read);
    int rc = w->db ? child_db_rc(w, catalog_levels(w->db, &read)) : -ENOTCONN;
    if (rc < 0)
        return rc;
    replace(l, &read);
    l->n_read++;
    l->read_ms = 0; /* until the ids are here too */
    for (size_t i = 0; i < LADDER_MAX_LEVELS; i++)
        l->at[i].id[0] = '\0';
    rc = w->redis ? child_redis_rc(w, queue_level_ids(w->redis, know, l)) : -ENOTCONN;
    if (rc == 0)
        l->read_ms = clock_mono_ms();
    return rc;
}

/* ---- one level ---- */

/* A marker that is seen for the first time is remembered; that one is missing is said once. */
static void note_marker(struct levels *l, size_t i, const struct level_dir *d) {
    struct child *w = l->w;
    const char *name = l->ladder.levels[i].name;
    char about[TEXT_BYTES];
    if (d->mark == LEVEL_RIGHT && !l->at[i].id[0]) {
        memcpy(l->at[i].id, d->id, sizeof d->id);
        if (w->redis)
            child_redis_rc(w, queue_level_know(w->redis, name, d->id, false));
    }
    if (d->mark == LEVEL_UNMARKED && !l->at[i].warned) {
        snprintf(about, sizeof about, "unmarked:%s", name);
        if (turns_is_first(w->o->turns, about))
            log_event(LOG_WARN, level_check_text(LEVEL_UNMARKED), LOG_STR("worker_id", w->id),
                      LOG_STR("at", name));
        l->at[i].warned = true;
    }
}

static bool is_hung(const struct levels *l, const char *name) {
    return turns_hung_ms(l->w->o->turns, name) > 0;
}

static bool is_young(const struct levels *l) {
    return clock_mono_ms() - l->born_ms < YOUNG_MS;
}

bool levels_is_let_alone(const struct levels *l, const char *name) {
    return is_hung(l, name) || (is_young(l) && !turns_looked_at(l->w->o->turns, name));
}

bool levels_may_be_let_alone(const struct levels *l) {
    return is_young(l) || turns_any_hung(l->w->o->turns);
}

/* 0 with the level's directory in *d, its descriptor the caller's, or -errno. */
static int open_dir(struct levels *l, size_t i, struct level_dir *d) {
    const struct config *cfg = l->w->cfg;
    const struct level_terms terms = {(const char *const *)cfg->roots, (size_t)cfg->n_roots,
                                      cfg->require_markers};
    const struct level *level = &l->ladder.levels[i];
    int rc = level_open(level->name, level->path, l->at[i].id, &terms, d);
    if (rc == -ESTALE)
        l->state = d->mark;
    return rc;
}

static int open_level(struct levels *l, size_t i, struct level_dir *d) {
    int rc = open_dir(l, i, d);
    if (rc == 0)
        note_marker(l, i, d);
    return rc;
}

/* ---- which overlap ---- */

bool levels_is_reached(const struct levels *l, size_t i) {
    const char *name = l->ladder.levels[i].name, *at = l->w->cfg->levels;
    size_t len = strlen(name);
    if (!at || l->at[i].used)
        return true;
    for (const char *next; *at; at = next) {
        at += strspn(at, ", ");
        next = at + strcspn(at, ",");
        size_t n = (size_t)(next - at);
        while (n && at[n - 1] == ' ')
            n--;
        if (n == len && memcmp(at, name, n) == 0)
            return true;
    }
    return false;
}

static void text_of_pair(const struct levels *l, size_t a, size_t b, char *out, size_t cap) {
    enum overlap is = overlaps_between(&l->overlaps, &a, &b);
    const struct level *x = &l->ladder.levels[a], *y = &l->ladder.levels[b];
    overlap_text(out, cap, is, x->name, x->path, y->name, y->path);
}

/* Says of each pair once that it overlaps, however many jobs wait for it, and processes see it:
 * where a file system keeps names for a while, one sees it from this side, another from that. */
static void say_overlaps(const struct levels *l, const struct overlaps *before) {
    char text[TEXT_BYTES], about[TEXT_BYTES];
    for (size_t a = 0; a < l->ladder.len; a++)
        for (size_t b = 0; b < l->ladder.len; b++) {
            size_t x = a, y = b;
            if (!l->overlaps.kind[a][b] || overlaps_between(before, &x, &y) != OVERLAP_NONE)
                continue;
            text_of_pair(l, a, b, text, sizeof text);
            snprintf(about, sizeof about, "%s%s and %s",
                     overlap_nests(l->overlaps.kind[a][b]) ? "nested:" : "",
                     l->ladder.levels[a < b ? a : b].name, l->ladder.levels[a < b ? b : a].name);
            if (turns_is_first(l->w->o->turns, about))
                log_event(LOG_ERROR, text, LOG_STR("worker_id", l->w->id));
        }
}

static bool is_judged(const struct levels *l, size_t i, const struct sys_identity *now) {
    const struct sys_identity *was = &l->at[i].judged;
    return l->judged_ms && was->dev == now->dev && was->ino == now->ino && was->mount == now->mount;
}

/* What was seen of two directories stays while they are the same, and a probe can be made in one of
 * them alone any more. */
static void keep_seen(struct levels *l, const struct overlaps *before, const bool *same) {
    struct overlaps *now = &l->overlaps;
    for (size_t a = 0; a < l->ladder.len; a++)
        for (size_t b = 0; b < l->ladder.len; b++) {
            size_t x = a, y = b;
            if (before->kind[a][b] && same[a] && same[b] && !(now->probed[a] && now->probed[b]) &&
                overlaps_between(now, &x, &y) == OVERLAP_NONE)
                now->kind[a][b] = before->kind[a][b];
        }
}

/* Says that we touch all levels that answer; what turn_leave wants. */
static size_t enter_all(const struct levels *l) {
    const char *names[LADDER_MAX_LEVELS] = {NULL};
    size_t n = 0;
    for (size_t i = 0; i < l->ladder.len; i++)
        if (levels_is_reached(l, i) && !levels_is_let_alone(l, l->ladder.levels[i].name))
            names[n++] = l->ladder.levels[i].name;
    return turn_enter(l->w->o->turn, names, n);
}

/* Opens all levels that this worker reaches and that answer, and judges which of them overlap. */
static void judge(struct levels *l) {
    struct overlaps_level levels[LADDER_MAX_LEVELS] = {{0}};
    const struct overlaps before = l->overlaps;
    bool same[LADDER_MAX_LEVELS] = {false};
    size_t n = l->ladder.len, before_us = enter_all(l);
    for (size_t i = 0; i < n; i++) {
        struct level_dir d = {.fd = -1};
        bool reached = levels_is_reached(l, i);
        bool let_alone = levels_is_let_alone(l, l->ladder.levels[i].name);
        int rc = !reached ? -EBUSY : let_alone ? LEVELS_HUNG : open_level(l, i, &d);
        bool opened = rc == 0;
        levels[i] = (struct overlaps_level){l->ladder.levels[i].name,
                                            reached ? l->ladder.levels[i].path
                                                    : "", /* perhaps a path of another host */
                                            d.fd};
        same[i] = opened && is_judged(l, i, &d.identity);
        l->at[i].unjudged = rc;
        l->at[i].judged = opened ? d.identity : (struct sys_identity){0};
    }
    overlaps_judge(&l->overlaps, levels, n);
    for (size_t i = 0; i < n; i++)
        path_close(&levels[i].dir);
    turn_leave(l->w->o->turn, before_us);
    keep_seen(l, &before, same);
    l->judged_ms = clock_mono_ms();
    say_overlaps(l, &before);
}

/* ---- for jobs ---- */

/* Where in the ladder; -ENOKEY, -EAGAIN. */
static int find(struct levels *l, const char *name, size_t *i) {
    const struct level *found = ladder_find(&l->ladder, str_view(name));
    if (!found) {
        if (levels_read(l, true) < 0)
            return -EAGAIN;
        found = ladder_find(&l->ladder, str_view(name));
    }
    if (!found)
        return -ENOKEY;
    *i = (size_t)(found - l->ladder.levels);
    return 0;
}

/* Opens a level's directory, unless it is open, and has it judged. */
static int use(struct levels *l, size_t i) {
    struct level_dir d;
    if (levels_is_let_alone(l, l->ladder.levels[i].name))
        return LEVELS_HUNG;
    if (l->at[i].dir >= 0)
        return 0;
    int rc = open_level(l, i, &d);
    if (rc == -ESTALE)
        l->read_ms = 0; /* what was remembered may be out of date */
    if (rc < 0)
        return rc;
    l->at[i].used = true;
    if (!is_judged(l, i, &d.identity) || clock_mono_ms() - l->judged_ms >= JUDGE_MS)
        judge(l);
    if (!is_judged(l, i, &d.identity)) { /* it could not be opened again, or is another by now */
        path_close(&d.fd);
        return l->at[i].unjudged < 0 ? l->at[i].unjudged : -EBUSY;
    }
    l->at[i].dir = d.fd;
    return 0;
}

/* The descriptor of one, or -errno. */
static int dir_of(struct levels *l, const char *name) {
    size_t i;
    int rc = find(l, name, &i);
    if (rc == 0)
        rc = use(l, i);
    if (rc < 0)
        return rc;
    l->refused[0] = i;
    return overlaps_nested(&l->overlaps, l->ladder.len, i, &l->refused[1]) ? LEVELS_NESTED
                                                                           : l->at[i].dir;
}

int levels_both(struct levels *l, const char *a, const char *b, int *a_dir, int *b_dir,
                const char **at) {
    size_t i, k;
    *at = a;
    int first = dir_of(l, a);
    if (first < 0)
        return first;
    *at = b;
    int second = dir_of(l, b);
    if (second < 0)
        return second;
    *at = a; /* the table may have been read anew, which closes all, or all judged anew */
    first = dir_of(l, a);
    if (first < 0)
        return first;
    *at = b;
    if (find(l, a, &i) < 0 || find(l, b, &k) < 0 || l->at[i].dir != first || l->at[k].dir != second)
        return -EAGAIN; /* the table changes at every look */
    l->refused[0] = i;
    l->refused[1] = k;
    if (i != k && overlaps_between(&l->overlaps, &i, &k) != OVERLAP_NONE)
        return LEVELS_ALIAS;
    *a_dir = first;
    *b_dir = second;
    return 0;
}

static enum move_rc look_for(int level, const char *name, struct stat *st) {
    int fd = -1;
    enum move_rc rc = file_open_below(level, name, &fd, st);
    path_close(&fd);
    return rc;
}

/* Whether `level` shows the same files as one in which something was found. */
static bool is_found(struct levels *l, const struct levels_found *f, const char *level) {
    int a, b;
    const char *at;
    for (size_t i = 0; i < f->n; i++)
        if (levels_both(l, f->at[i].level, level, &a, &b, &at) == LEVELS_ALIAS)
            return true;
    return false;
}

void levels_search(struct levels *l, const char *but, const char *name, struct levels_found *out) {
    *out = (struct levels_found){0};
    size_t before_us = enter_all(l);
    const char *at;
    int own, dir;
    for (size_t i = 0; i < l->ladder.len; i++) {
        char level[JOB_LEVEL_BYTES];
        struct stat st = {0};
        snprintf(level, sizeof level, "%s", l->ladder.levels[i].name);
        if (strcmp(level, but) == 0)
            continue;
        int opened = levels_is_reached(l, i) ? levels_both(l, but, level, &own, &dir, &at) : -EXDEV;
        enum move_rc rc = opened == LEVELS_ALIAS ? MOVE_MISSING
                          : opened < 0           ? MOVE_IO
                                                 : look_for(dir, name, &st);
        if (rc == MOVE_OK && is_found(l, out, level))
            continue;
        if (rc == MOVE_OK && out->n < LEVELS_FOUND_MAX) {
            memcpy(out->at[out->n].level, level, sizeof level);
            out->at[out->n].changed_s = st.st_ctim.tv_sec;
            out->at[out->n++].id = file_id_of(&st);
        } else {
            out->unclear += rc != MOVE_MISSING;
        }
    }
    out->bare = out->n && levels_both(l, but, but, &own, &dir, &at) == 0 && level_is_bare(own);
    turn_leave(l->w->o->turn, before_us);
}

const char *levels_path(const struct levels *l, const char *name) {
    const struct level *found = ladder_find(&l->ladder, str_view(name));
    return found ? found->path : NULL;
}

void levels_forget(struct levels *l) {
    l->read_ms = 0;
}

int levels_open_path(const struct levels *l, const char *path) {
    const struct config *cfg = l->w->cfg;
    return path_open_level(path, (const char *const *)cfg->roots, (size_t)cfg->n_roots);
}

void levels_text(const struct levels *l, char *out, size_t cap, const char *name, int rc) {
    if (rc == LEVELS_ALIAS || rc == LEVELS_NESTED)
        text_of_pair(l, l->refused[0], l->refused[1], out, cap);
    else if (rc == LEVELS_HUNG && !is_hung(l, name))
        snprintf(out, cap, "the file system of the level %s has not answered yet", name);
    else if (rc == LEVELS_HUNG)
        snprintf(out, cap, "the file system of the level %s has not answered for %" PRId64 " s",
                 name, turns_hung_ms(l->w->o->turns, name) / 1000);
    else if (rc == -ESTALE)
        snprintf(out, cap, "the directory of the level %s %s", name, level_check_text(l->state));
    else if (rc == -ENOKEY)
        snprintf(out, cap, "the level %s does not exist", name);
    else if (rc == -EXDEV)
        snprintf(out, cap, "the path of the level %s lies under none of the roots", name);
    else
        snprintf(out, cap, "the directory of the level %s cannot be opened: %s", name,
                 log_errno_text(rc));
}

/* ---- for the looker ---- */

/* Opens the level and asks how full it is, and does nothing else: 0 or -errno. */
static int measure(struct levels *l, size_t i, struct level_dir *d, struct statvfs *vfs) {
    int rc = open_dir(l, i, d);
    if (rc == 0 && fstatvfs(d->fd, vfs) < 0)
        rc = -errno;
    path_close(&d->fd);
    return rc;
}

static void say_trouble(struct levels *l, size_t i, int rc, struct watch_look *look) {
    char text[TEXT_BYTES];
    const char *name = l->ladder.levels[i].name;
    int64_t hung_ms = turns_hung_ms(l->w->o->turns, name);
    if (rc == LEVELS_HUNG) /* how long is shown beside it */
        snprintf(text, sizeof text, "the file system of the level %s does not answer", name);
    else
        levels_text(l, text, sizeof text, name, rc);
    buf_addf(&look->trouble, "%s\n%" PRId64 " %s\n", name, hung_ms, text);
}

static void say_well(struct levels *l, size_t i, const struct level_dir *d,
                     const struct statvfs *vfs, struct watch_look *look) {
    const char *name = l->ladder.levels[i].name;
    note_marker(l, i, d);
    buf_addf(&look->well, "%s\n", name);
    buf_addf(&look->use, "%s\n%" PRIu64 " %" PRIu64 "\n", name, file_used_bytes(vfs),
             file_free_bytes(vfs));
}

bool levels_look(struct levels *l, struct watch_look *look) {
    bool unjudged = l->judged_ms == 0;
    for (size_t i = 0; i < l->ladder.len; i++) {
        struct level_dir d = {.fd = -1};
        struct statvfs vfs;
        const char *name = l->ladder.levels[i].name;
        if (!levels_is_reached(l, i) || strchr(name, '\n'))
            continue;
        bool hung = is_hung(l, name);
        if (!hung)
            turn_look(l->w->o->turn, name);
        int rc = hung ? LEVELS_HUNG : measure(l, i, &d, &vfs);
        if (!hung && !turn_looked(l->w->o->turns, l->w->o->turn))
            return false;
        if (rc < 0)
            say_trouble(l, i, rc, look);
        else
            say_well(l, i, &d, &vfs, look);
        unjudged = unjudged || (rc == 0 && !is_judged(l, i, &d.identity));
    }
    if (unjudged) /* said at once, not only when a job comes */
        judge(l);
    return true;
}
