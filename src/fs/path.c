#include "fs/path.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/name.h"

void path_close(int *fd) {
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* A directory younger than this may have been made by somebody who was killed before its own name
 * was durable; its parent is synced again. */
enum { YOUNG_S = 60 };

static bool is_known(const struct path_dirs *dirs, const struct stat *st) {
    for (size_t i = 0; i < dirs->n_durable; i++)
        if (dirs->durable[i].dev == st->st_dev && dirs->durable[i].ino == st->st_ino)
            return true;
    return false;
}

/* Makes the name of the directory `fd` in `dir` durable, if somebody may not have. 0 or -1. */
static int make_durable(int dir, int fd, bool made, struct path_dirs *dirs) {
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -1;
    if (!made && (time(NULL) - st.st_ctim.tv_sec >= YOUNG_S || is_known(dirs, &st)))
        return 0;
    if (fsync(dir) < 0)
        return -1;
    if (dirs->n_durable < PATH_DURABLE_MAX) {
        dirs->durable[dirs->n_durable].dev = st.st_dev;
        dirs->durable[dirs->n_durable++].ino = st.st_ino;
    }
    return 0;
}

/* Opens one component below `dir`, which it closes. With `dirs` a missing one is made, with owner
 * and mode of `like`, and its name is durable when this returns. */
static int step_into(int dir, const char *component, const struct stat *like,
                     struct path_dirs *dirs) {
    int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    int fd = openat(dir, component, flags);
    bool made = false;
    if (fd < 0 && errno == ENOENT && dirs) {
        made = mkdirat(dir, component, like->st_mode & 07777) == 0;
        if (made || errno == EEXIST)
            fd = openat(dir, component, flags);
        if (made && fd >= 0 && fchown(fd, like->st_uid, like->st_gid) == 0)
            (void)fchmod(fd, like->st_mode & 07777); /* as near to the level as we may */
    }
    if (fd >= 0 && dirs && make_durable(dir, fd, made, dirs) < 0) {
        int error = errno;
        path_close(&fd);
        errno = error;
    }
    int saved = errno;
    close(dir);
    errno = saved;
    return fd;
}

/* `like` is the level's, and is used with `dirs` alone. */
static int open_parent(int level, const char *name, const struct stat *like,
                       struct path_dirs *dirs) {
    int dir = openat(level, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const char *slash;
    for (; dir >= 0 && (slash = strchr(name, '/')); name = slash + 1) {
        char component[NAME_COMPONENT_MAX + 1];
        size_t len = (size_t)(slash - name);
        if (len == 0)
            continue;
        if (len >= sizeof component) {
            close(dir);
            errno = ENAMETOOLONG;
            return -1;
        }
        memcpy(component, name, len);
        component[len] = '\0';
        dir = step_into(dir, component, like, dirs);
    }
    return dir;
}

int path_open_parent(int level, const char *name) {
    return open_parent(level, name, NULL, NULL);
}

/* Puts `fd`, which it takes over, into the entry at the end of the set. */
static int keep_open(struct path_dirs *dirs, int fd) {
    struct stat st;
    if (fd >= 0 && fstat(fd, &st) < 0) {
        int error = errno;
        path_close(&fd);
        errno = error;
    }
    if (fd < 0)
        return -1;
    for (size_t i = 0; i < dirs->n; i++) {
        if (dirs->open[i].dev == st.st_dev && dirs->open[i].ino == st.st_ino) {
            close(fd); /* by another way: two levels that are one directory, a bind mount */
            fd = dirs->open[i].fd;
            break;
        }
    }
    dirs->open[dirs->n].fd = fd;
    dirs->open[dirs->n].dev = st.st_dev;
    dirs->open[dirs->n++].ino = st.st_ino;
    return fd;
}

int path_dir(struct path_dirs *dirs, int level, const char *name, bool make) {
    struct stat st;
    size_t len = (size_t)(path_leaf(name) - name);
    if (fstat(level, &st) < 0)
        return -1;
    for (size_t i = 0; i < dirs->n; i++) {
        if (dirs->open[i].level_ino == st.st_ino && dirs->open[i].level_dev == st.st_dev &&
            dirs->open[i].made == make && dirs->open[i].len == len &&
            memcmp(dirs->open[i].name, name, len) == 0)
            return dirs->open[i].fd;
    }
    if (dirs->n == PATH_DIRS_MAX) {
        errno = ENFILE;
        return -1;
    }
    dirs->open[dirs->n].level_dev = st.st_dev;
    dirs->open[dirs->n].level_ino = st.st_ino;
    dirs->open[dirs->n].name = name;
    dirs->open[dirs->n].len = len;
    dirs->open[dirs->n].made = make;
    return keep_open(dirs, open_parent(level, name, &st, make ? dirs : NULL));
}

void path_dirs_close(struct path_dirs *dirs) {
    for (size_t i = 0; i < dirs->n; i++) {
        size_t k = 0;
        while (k < i && dirs->open[k].fd != dirs->open[i].fd)
            k++;
        if (k == i)
            close(dirs->open[i].fd);
    }
    dirs->n = dirs->n_durable = 0;
}

const char *path_leaf(const char *name) {
    const char *slash = strrchr(name, '/');
    return slash ? slash + 1 : name;
}

/* The part of `path` below `root` ("" for root itself), or NULL. */
static const char *below(const char *path, const char *root) {
    size_t n = strlen(root);
    while (n > 1 && root[n - 1] == '/')
        n--;
    if (strncmp(path, root, n) != 0)
        return NULL;
    if (n == 1)
        return path + 1;
    return path[n] == '/' ? path + n + 1 : path[n] == '\0' ? path + n : NULL;
}

static bool has_dots(const char *path) {
    for (const char *p = path; (p = strstr(p, "/.")); p++)
        if (p[2] == '\0' || p[2] == '/' || (p[2] == '.' && (p[3] == '\0' || p[3] == '/')))
            return true;
    return false;
}

int path_open_level(const char *path, const char *const *roots, size_t n_roots) {
    char rest[PATH_MAX];
    if (path[0] != '/' || has_dots(path))
        return -EINVAL;
    for (size_t i = 0; i < n_roots; i++) {
        const char *sub = below(path, roots[i]);
        if (!sub)
            continue;
        /* open_parent leaves the last component out: the closing slash makes that an empty one */
        if (snprintf(rest, sizeof rest, "%s/", sub) >= (int)sizeof rest)
            return -ENAMETOOLONG;
        int root = open(roots[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (root < 0)
            return -errno;
        int fd = path_open_parent(root, rest);
        int error = errno;
        close(root);
        return fd < 0 ? -error : fd;
    }
    return -EXDEV;
}
