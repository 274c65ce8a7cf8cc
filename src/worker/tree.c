#include "worker/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "base/name.h"
#include "base/sys.h"

enum {
    DIR_FLAGS = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
    YOUNG_S = 600, /* every file system has written an older directory by itself: 5 to 30 s is usual */
};

static int close_and(int fd, int rc) {
    if (fd >= 0)
        close(fd);
    return rc;
}

/* ---- walking ---- */

/* Opens one directory below `dir`. O_DIRECTORY with O_NOFOLLOW calls a symbolic link ENOTDIR. */
static int open_step(int dir, const char *component) {
    int fd = openat(dir, component, DIR_FLAGS);
    if (fd >= 0)
        return fd;
    int error = errno;
    struct stat st;
    if (error == ENOTDIR && fstatat(dir, component, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        S_ISLNK(st.st_mode))
        error = ELOOP;
    return -error;
}

/* Takes the next component off `*path`. 1: there was one, 0: none, -ENAMETOOLONG. */
static int next_component(const char **path, char component[NAME_COMPONENT_MAX + 1]) {
    *path += strspn(*path, "/");
    size_t len = strcspn(*path, "/");
    if (len == 0)
        return 0;
    if (len > NAME_COMPONENT_MAX)
        return -ENAMETOOLONG;
    memcpy(component, *path, len);
    component[len] = '\0';
    *path += len;
    return 1;
}

/* What openat2 does, for kernels before 5.6: no component may be a link. */
static int walk(int from, const char *path) {
    char component[NAME_COMPONENT_MAX + 1];
    int dir = openat(from, ".", DIR_FLAGS);
    int rc = dir < 0 ? -errno : 1;
    while (rc == 1 && (rc = next_component(&path, component)) == 1) {
        int next = open_step(dir, component);
        close(dir);
        dir = next;
        rc = next < 0 ? next : 1;
    }
    return rc < 0 ? close_and(dir, rc) : dir;
}

/* Opens a directory below `from`; "" is `from` itself. */
static int open_below(int from, const char *path) {
    int fd = sys_open_beneath(from, *path ? path : ".", DIR_FLAGS);
    if (fd >= 0)
        return fd;
    /* EPERM: a seccomp filter that never heard of openat2. ENOTDIR: see open_step. */
    if (errno == ENOSYS || errno == EPERM || errno == EINVAL || errno == ENOTDIR)
        return walk(from, path);
    return -errno;
}

const char *tree_leaf(const char *name) {
    const char *slash = strrchr(name, '/');
    return slash ? slash + 1 : name;
}

/* The part of `name` before its leaf, without the slash. */
static int parent_path(const char *name, char out[NAME_PATH_MAX + 1]) {
    size_t len = (size_t)(tree_leaf(name) - name);
    if (len > NAME_PATH_MAX)
        return -ENAMETOOLONG;
    memcpy(out, name, len);
    out[len > 0 ? len - 1 : 0] = '\0';
    return 0;
}

int tree_parent(int level, const char *name) {
    char path[NAME_PATH_MAX + 1];
    int rc = parent_path(name, path);
    return rc < 0 ? rc : open_below(level, path);
}

/* ---- levels ---- */

/* The part of `path` below `root` ("" for root itself), or NULL. */
static const char *below(const char *path, const char *root) {
    size_t n = strlen(root);
    while (n > 0 && root[n - 1] == '/')
        n--;
    if (strncmp(path, root, n) != 0 || (path[n] != '/' && path[n] != '\0'))
        return NULL;
    return path + n + strspn(path + n, "/");
}

static bool has_dots(const char *path) {
    for (const char *p = path; (p = strstr(p, "/.")); p++)
        if (p[2] == '\0' || p[2] == '/' || (p[2] == '.' && (p[3] == '\0' || p[3] == '/')))
            return true;
    return false;
}

int tree_open_level(const char *path, const char *const *roots, size_t n_roots) {
    if (path[0] != '/' || has_dots(path))
        return -EINVAL;
    for (size_t i = 0; i < n_roots; i++) {
        const char *rest = below(path, roots[i]);
        if (!rest)
            continue;
        int root = open(roots[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return root < 0 ? -errno : close_and(root, open_below(root, rest));
    }
    return -EXDEV;
}

/* ---- making directories ---- */

/* Whether a power cut might still take the directory's own entry away. */
static bool is_young(int dir) {
    struct sys_extra extra;
    struct timespec now;
    if (sys_extra(dir, &extra) < 0 || !extra.has_born || clock_gettime(CLOCK_REALTIME, &now) < 0)
        return true;
    return now.tv_sec < extra.born_s + YOUNG_S;
}

/* A directory is made like the one at the source; what is not ours to give away stays ours. */
static void dress(int dir, const struct stat *like) {
    struct stat st;
    if (fstat(dir, &st) < 0)
        return;
    if ((st.st_uid != like->st_uid || st.st_gid != like->st_gid) &&
        fchown(dir, like->st_uid, like->st_gid) < 0)
        return; /* the mode was meant for another owner: keep what mkdir gave */
    (void)fchmod(dir, like->st_mode & 07777);
}

/* Opens one directory below `dir`, making it like `like`; its entry is durable then. */
static int make_step(int dir, const char *component, const struct stat *like) {
    bool made = mkdirat(dir, component, like->st_mode & 0777) == 0;
    if (!made && errno != EEXIST)
        return -errno;
    int fd = open_step(dir, component);
    if (fd < 0)
        return fd;
    if (made)
        dress(fd, like);
    /* Not made by us does not mean durable: who made it may not have come to its fsync. */
    if ((made || is_young(fd)) && fsync(dir) < 0)
        return close_and(fd, -errno);
    return fd;
}

static int make_below(int level, const char *path, int like_level) {
    char component[NAME_COMPONENT_MAX + 1];
    struct stat like;
    if (fstat(level, &like) < 0)
        return -errno;
    int dir = openat(level, ".", DIR_FLAGS);
    int model = openat(like_level, ".", DIR_FLAGS);
    int rc = dir < 0 ? -errno : 1;
    while (rc == 1 && (rc = next_component(&path, component)) == 1) {
        int next_model = model < 0 ? -1 : open_step(model, component);
        close_and(model, 0);
        model = next_model;
        if (model >= 0)
            fstat(model, &like);
        int next = make_step(dir, component, &like);
        close(dir);
        dir = next;
        rc = next < 0 ? next : 1;
    }
    close_and(model, 0);
    return rc < 0 ? close_and(dir, rc) : dir;
}

int tree_make_parent(int level, const char *name, int like_level) {
    char path[NAME_PATH_MAX + 1];
    int rc = parent_path(name, path);
    int dir = rc < 0 ? rc : open_below(level, path);
    if (*path == '\0' || (dir < 0 && dir != -ENOENT) || (dir >= 0 && !is_young(dir)))
        return dir;
    close_and(dir, 0);
    return make_below(level, path, like_level);
}

/* ---- files ---- */

/* Without /proc: opened anew, in a way that waits for nothing, and compared. */
static int reopen_by_name(int dir, const char *leaf, const struct stat *st) {
    struct stat again;
    int fd = openat(dir, leaf, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (fstat(fd, &again) < 0 || !tree_same_inode(&again, st))
        return close_and(fd, -EBUSY);
    return fd;
}

static int reopen(int path_fd, int dir, const char *leaf, const struct stat *st) {
    char proc[40];
    snprintf(proc, sizeof proc, "/proc/self/fd/%d", path_fd);
    int fd = open(proc, O_RDONLY | O_CLOEXEC);
    if (fd >= 0)
        return fd;
    return errno == ENOENT ? reopen_by_name(dir, leaf, st) : -errno;
}

/* A plain open of a FIFO hangs and one of a device has effects, so the file is looked at through a
 * descriptor that opens nothing first (open(2), O_PATH). */
int tree_open_file(int dir, const char *leaf, int *fd, struct stat *st) {
    struct stat found;
    int path_fd = openat(dir, leaf, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (path_fd < 0)
        return -errno;
    if (fstat(path_fd, &found) < 0)
        return close_and(path_fd, -errno);
    if (!S_ISREG(found.st_mode))
        return close_and(path_fd, -ELOOP);
    int rc = close_and(path_fd, reopen(path_fd, dir, leaf, &found));
    if (rc < 0)
        return rc;
    *fd = rc;
    *st = found;
    return 0;
}

int tree_lock(int fd) {
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return 1;
    return errno == EWOULDBLOCK ? -EBUSY : 0;
}

bool tree_has_writer(int fd) {
    if (fcntl(fd, F_SETLEASE, F_RDLCK) == 0) {
        fcntl(fd, F_SETLEASE, F_UNLCK);
        return false;
    }
    return errno == EAGAIN;
}

static bool same_time(const struct timespec *a, const struct timespec *b) {
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

bool tree_same_inode(const struct stat *a, const struct stat *b) {
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

bool tree_same_content(const struct stat *a, const struct stat *b) {
    return tree_same_inode(a, b) && a->st_size == b->st_size && same_time(&a->st_mtim, &b->st_mtim);
}

bool tree_unchanged(const struct stat *a, const struct stat *b) {
    return tree_same_content(a, b) && same_time(&a->st_ctim, &b->st_ctim);
}

bool tree_names(int dir, const char *leaf, const struct stat *st) {
    struct stat found;
    return fstatat(dir, leaf, &found, AT_SYMLINK_NOFOLLOW) == 0 && tree_same_inode(&found, st);
}

int tree_rename(int dir, const char *from, const char *to) {
    if (sys_rename_noreplace(dir, from, dir, to) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP)
        return -errno;
    if (linkat(dir, from, dir, to, 0) < 0)
        return errno == EPERM || errno == ENOSYS ? -EOPNOTSUPP : -errno;
    return unlinkat(dir, from, 0) < 0 ? -errno : 0;
}
