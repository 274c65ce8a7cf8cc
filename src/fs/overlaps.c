#include "fs/overlaps.h"

#include <assert.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "fs/alias.h"
#include "fs/file.h"
#include "fs/path.h"

enum {
    ANCESTORS_MAX = 256, /* more than a path of PATH_MAX bytes is likely to have */
    MOUNT_BYTES = 2 * PATH_MAX + 1024,
    PROC_BYTES = 64,
};

/* linux/magic.h */
static const uint32_t FUSE_MAGIC = 0x65735546, OVERLAY_MAGIC = 0x794c7630;

/* One judging. */
struct judging {
    struct overlaps *o;
    const struct overlaps_level *levels;
    size_t n;
    struct stat *st; /* of each that is open */
    char **place;    /* "8:1/srv/pool" where it lies in its own file system, or NULL */
};

static bool is_open(const struct judging *j, size_t i) {
    return j->levels[i].dir >= 0;
}

/* What was found first stays, for it says more, unless the new one nests. */
static void note(struct judging *j, size_t a, size_t b, enum overlap is) {
    size_t x = a, y = b;
    enum overlap was = overlaps_between(j->o, &x, &y);
    if (is == OVERLAP_NONE || (was != OVERLAP_NONE && (overlap_nests(was) || !overlap_nests(is))))
        return;
    j->o->kind[b][a] = OVERLAP_NONE;
    j->o->kind[a][b] = (unsigned char)is;
}

/* ---- by numbers ---- */

static void compare_inodes(struct judging *j) {
    for (size_t a = 0; a < j->n; a++)
        for (size_t b = a + 1; b < j->n; b++)
            if (is_open(j, a) && is_open(j, b) && file_same_inode(&j->st[a], &j->st[b]))
                note(j, a, b, OVERLAP_SAME);
}

/* Notes for which levels `st`, a directory around level `a`, is theirs. */
static void note_ancestor(struct judging *j, size_t a, const struct stat *st) {
    for (size_t b = 0; b < j->n; b++)
        if (b != a && is_open(j, b) && file_same_inode(st, &j->st[b]))
            note(j, a, b, OVERLAP_WITHIN);
}

/* From a level up to the root: through mounts, as `..` goes. */
static void walk_up(struct judging *j, size_t a) {
    struct stat st = j->st[a], up;
    int dir = openat(j->levels[a].dir, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; dir >= 0 && i < ANCESTORS_MAX; i++) {
        int parent = openat(dir, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
        close(dir);
        dir = parent;
        if (dir < 0 || fstat(dir, &up) < 0 || file_same_inode(&st, &up))
            break;
        note_ancestor(j, a, &up);
        st = up;
    }
    path_close(&dir);
}

/* ---- by the table of mounts ---- */

/* The number of the mount that a descriptor was reached through (proc(5), fdinfo); -1: unknown. */
static long mount_of(int fd) {
    char name[PROC_BYTES], line[PROC_BYTES];
    long id = -1;
    snprintf(name, sizeof name, "/proc/self/fdinfo/%d", fd);
    FILE *f = fopen(name, "re");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "mnt_id:", 7) == 0)
            id = strtol(line + 7, NULL, 10);
    if (f)
        fclose(f);
    return id;
}

static char octal(const char *digits) {
    return (char)(unsigned char)((digits[0] - '0') << 6 | (digits[1] - '0') << 3 |
                                 (digits[2] - '0'));
}

/* Takes the next word off the front of *line; blanks and the like stand in it as \040. */
static char *take_word(char **line) {
    char *word = *line + strspn(*line, " "), *out = word, *in = word;
    for (; *in && *in != ' ' && *in != '\n'; out++) {
        bool escaped = in[0] == '\\' && in[1] && in[2] && in[3];
        *out = escaped ? octal(in + 1) : *in;
        in += escaped ? 4 : 1;
    }
    *line = *in ? in + 1 : in;
    *out = '\0';
    return word;
}

/* "8:1/srv/pool" for a directory `path` on the mount that `line` of mountinfo (proc(5)) tells of;
 * the caller's, or NULL. */
static char *place_on(char *line, const char *path) {
    char *place = NULL;
    (void)take_word(&line); /* its number */
    (void)take_word(&line); /* its parent's */
    const char *device = take_word(&line), *root = take_word(&line), *point = take_word(&line);
    size_t n = strcmp(point, "/") == 0 ? 0 : strlen(point);
    if (strncmp(path, point, n) != 0 || (path[n] && path[n] != '/'))
        return NULL; /* it was mounted over since */
    if (asprintf(&place, "%s%s%s", device, strcmp(root, "/") == 0 ? "" : root, path + n) < 0)
        return NULL;
    return place;
}

static char *place_of(int dir, FILE *mounts) {
    char name[PROC_BYTES], path[PATH_MAX], line[MOUNT_BYTES];
    char *place = NULL;
    snprintf(name, sizeof name, "/proc/self/fd/%d", dir);
    ssize_t len = readlink(name, path, sizeof path - 1);
    long id = len > 0 ? mount_of(dir) : -1;
    if (id < 0)
        return NULL;
    path[len] = '\0';
    rewind(mounts);
    while (!place && fgets(line, sizeof line, mounts))
        if (strtol(line, NULL, 10) == id)
            place = place_on(line, path);
    return place;
}

/* The table alone is not believed: mounts of network file systems may share all that it shows. */
static void compare_places(struct judging *j, size_t a, size_t b) {
    struct stat st;
    const char *in = j->place[a], *around = j->place[b];
    size_t n = around ? strlen(around) : 0;
    while (n && around[n - 1] == '/')
        n--;
    if (!in || !around || strncmp(in, around, n) != 0 || in[n] != '/')
        return;
    const char *rest = in + n + strspn(in + n, "/");
    if (*rest && fstatat(j->levels[b].dir, rest, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        file_same_inode(&st, &j->st[a]))
        note(j, a, b, OVERLAP_WITHIN);
}

static void look_at_mounts(struct judging *j) {
    FILE *mounts = fopen("/proc/self/mountinfo", "re");
    for (size_t i = 0; mounts && i < j->n; i++)
        j->place[i] = is_open(j, i) ? place_of(j->levels[i].dir, mounts) : NULL;
    if (mounts)
        fclose(mounts);
    for (size_t a = 0; a < j->n; a++)
        for (size_t b = 0; b < j->n; b++)
            if (a != b)
                compare_places(j, a, b);
    for (size_t i = 0; i < j->n; i++)
        free(j->place[i]);
}

/* ---- by what is seen ---- */

/* Whether the probe appears below `dir` under the last part of the path, however long that is. */
static bool seen_below(int dir, const char *path, const struct alias_probe *probe) {
    char below[PATH_MAX];
    for (const char *at = path + strlen(path); at > path; at--) {
        if (at[-1] != '/' || *at == '/' || !*at ||
            snprintf(below, sizeof below, "%s/", at) >= (int)sizeof below)
            continue;
        int parent = path_open_parent(dir, below);
        bool seen = parent >= 0 && alias_probe_seen(probe, parent) == 1;
        path_close(&parent);
        if (seen)
            return true;
    }
    return false;
}

/* Whether a level is a file system of files elsewhere, as pools, binds and overlays are
 * (statfs(2)).
 */
static bool is_layered(const struct judging *j, size_t i) {
    struct statfs fs;
    return fstatfs(j->levels[i].dir, &fs) == 0 &&
           ((uint32_t)fs.f_type == FUSE_MAGIC || (uint32_t)fs.f_type == OVERLAY_MAGIC);
}

/*
 * Takes the probe of level `a` away, through the topmost level that shows it: fuse-overlayfs takes
 * nothing new any more when what it has shown goes behind its back. It may also say that it made
 * none, and have made one below.
 */
static void remove_probe(struct judging *j, size_t a, struct alias_probe *probe, const bool *seen) {
    bool above = is_layered(j, a);
    for (size_t b = 0; b < j->n && !above; b++)
        if (seen[b] && is_layered(j, b))
            (void)unlinkat(j->levels[b].dir, probe->name, 0);
    if (probe->fd >= 0)
        alias_probe_remove(probe);
    for (size_t b = 0; b < j->n; b++)
        if (seen[b])
            (void)unlinkat(j->levels[b].dir, probe->name, 0);
}

static void probe_from(struct judging *j, size_t a) {
    struct alias_probe probe = {.fd = -1};
    bool seen[OVERLAPS_MAX] = {false};
    bool made = alias_probe_make(&probe, j->levels[a].dir, NULL) == 0;
    j->o->probed[a] = made; /* read-only, or full: perhaps it is told from the other side */
    for (size_t b = 0; b < j->n && probe.name[0]; b++) {
        if (b == a || !is_open(j, b))
            continue;
        seen[b] = alias_probe_seen(&probe, j->levels[b].dir) == 1;
        if (seen[b])
            note(j, a, b, OVERLAP_SHOWS);
        else if (made && seen_below(j->levels[b].dir, j->levels[a].path, &probe))
            note(j, a, b, OVERLAP_SHOWS_WITHIN);
    }
    remove_probe(j, a, &probe, seen);
}

/* ---- all of it ---- */

static void look_at_paths(struct judging *j) {
    for (size_t a = 0; a < j->n; a++)
        for (size_t b = 0; b < j->n; b++)
            if (a != b)
                note(j, a, b, overlap_of_paths(j->levels[a].path, j->levels[b].path));
}

void overlaps_judge(struct overlaps *o, const struct overlaps_level *levels, size_t n) {
    struct stat st[OVERLAPS_MAX];
    char *place[OVERLAPS_MAX] = {NULL};
    struct judging j = {.o = o, .levels = levels, .n = n, .st = st, .place = place};
    assert(n <= OVERLAPS_MAX);
    memset(o, 0, sizeof *o);
    look_at_paths(&j);
    for (size_t i = 0; i < n; i++)
        if (levels[i].dir < 0 || fstat(levels[i].dir, &st[i]) < 0)
            memset(&st[i], 0, sizeof st[i]);
    compare_inodes(&j);
    look_at_mounts(&j);
    for (size_t i = 0; i < n; i++) {
        if (!is_open(&j, i))
            continue;
        walk_up(&j, i);
        probe_from(&j, i);
    }
}

enum overlap overlaps_between(const struct overlaps *o, size_t *a, size_t *b) {
    size_t x = *a, y = *b;
    if (o->kind[x][y] != OVERLAP_NONE)
        return (enum overlap)o->kind[x][y];
    if (o->kind[y][x] != OVERLAP_NONE) {
        *a = y;
        *b = x;
    }
    return (enum overlap)o->kind[y][x];
}

bool overlaps_nested(const struct overlaps *o, size_t n, size_t i, size_t *with) {
    for (*with = 0; *with < n; ++*with) {
        size_t a = i, b = *with;
        if (a != b && overlap_nests(overlaps_between(o, &a, &b)))
            return true;
    }
    return false;
}
