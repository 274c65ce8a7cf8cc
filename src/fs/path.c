#include "fs/path.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/name.h"

void path_close(int *fd) {
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* A directory younger than this may have been made by somebody who was killed before its own name
 * was durable; its parent is synced again. */
enum { YOUNG_S = 60 };

/* More than are open when we look whether a file system answers: the standard ones, two servers. */
enum { DESCRIPTORS = 256 };

/* So often may a directory be taken away while we make what is to be in it: each time somebody has
 * just emptied it. */
enum { PRUNES_MAX = 16 };

static bool is_known(const struct path_dirs *dirs, const struct stat *st) {
    for (size_t i = 0; i < dirs->n_durable; i++)
        if (dirs->durable[i].dev == st->st_dev && dirs->durable[i].ino == st->st_ino)
            return true;
    return false;
}

/* Makes the name of the directory in `dir` that looks like `st` durable, if somebody may not have.
 * 0 or -1. */
static int make_durable(int dir, const struct stat *st, bool made, struct path_dirs *dirs) {
    if (!made && (time(NULL) - st->st_ctim.tv_sec >= YOUNG_S || is_known(dirs, st)))
        return 0;
    if (fsync(dir) < 0)
        return -1;
    if (dirs->n_durable < PATH_DURABLE_MAX) {
        dirs->durable[dirs->n_durable].dev = st->st_dev;
        dirs->durable[dirs->n_durable++].ino = st->st_ino;
    }
    return 0;
}

/* How missing directories are made. */
struct making {
    struct path_dirs *dirs;
    int model;        /* the level that has them */
    const char *name; /* from the level on */
};

/*
 * A directory of ours has this mode until it is as its model: nobody else gets in, and who finds it
 * so, left by one who was killed or just being made, makes it so as well.
 */
enum { UNFINISHED = S_ISVTX | 0700 };

static bool is_unfinished(const struct stat *st) {
    return (st->st_mode & (S_ISVTX | 0777)) == UNFINISHED;
}

/* Makes the directory `fd`, of the first `len` bytes of the name, as its model is. 0 or -1. */
static int finish(int fd, const struct making *how, size_t len) {
    char folder[PATH_MAX];
    struct stat like, now;
    struct meta *meta = &how->dirs->meta;
    int n = snprintf(folder, sizeof folder, "%.*s/", (int)len, how->name);
    int model = path_open_parent(how->model, folder);
    if (model < 0)
        return -1;
    *meta = (struct meta){.from = model, .to = fd, .st = &like, .folder = true};
    enum move_rc rc = fstat(model, &like) < 0 ? MOVE_IO : meta_copy(meta);
    if (rc == MOVE_OK)
        rc = fstat(fd, &now) < 0 ? MOVE_IO : meta_check(meta, &now);
    if (rc != MOVE_OK && meta->what[0]) {
        size_t used = strlen(meta->what);
        snprintf(meta->what + used, sizeof meta->what - used, " of the folder %.*s", n - 1, folder);
        how->dirs->meta_rc = rc;
        errno = meta->error;
    }
    int error = errno;
    close(model);
    errno = error;
    return rc == MOVE_OK ? fsync(fd) : -1;
}

/* What comes behind the opening of `component` in `dir`. 0 or -1. */
static int settle(int dir, int fd, bool made, const struct making *how, size_t len) {
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -1;
    if ((made || is_unfinished(&st)) && finish(fd, how, len) < 0)
        return -1;
    return make_durable(dir, &st, made, how->dirs);
}

/* Opens one component below `dir`, which it closes: the end of the first `len` bytes of the name.
 * With `how` a missing one is made, and durable when this returns. */
static int step_into(int dir, const char *component, const struct making *how, size_t len) {
    int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    int fd = openat(dir, component, flags);
    bool made = false;
    if (fd < 0 && errno == ENOENT && how) {
        made = mkdirat(dir, component, UNFINISHED) == 0;
        if (made || errno == EEXIST)
            fd = openat(dir, component, flags);
    }
    int saved = errno;
    if (fd >= 0 && how && settle(dir, fd, made, how, len) < 0) {
        saved = errno;
        path_close(&fd);
        if (made)
            unlinkat(dir, component, AT_REMOVEDIR);
    }
    close(dir);
    errno = saved;
    return fd;
}

static int open_parent(int level, const char *name, const struct making *how) {
    int dir = openat(level, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const char *slash, *from = name;
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
        dir = step_into(dir, component, how, (size_t)(slash - from));
    }
    return dir;
}

int path_open_parent(int level, const char *name) {
    return open_parent(level, name, NULL);
}

/* By statfs(2), linux/magic.h: what is not known here is as if it were remembered. */
static bool is_local(int fd) {
    static const unsigned types[] = {
        0xef53 /* ext2 to ext4 */, 0x58465342 /* XFS */,  0x9123683e /* Btrfs */,
        0x01021994 /* tmpfs */,    0xf2f52010 /* F2FS */, 0x2fc12fc1 /* ZFS */,
        0xca451a4e /* bcachefs */, 0x3153464a /* JFS */,  0x4d44 /* FAT */,
    };
    struct statfs fs;
    bool local = false;
    if (fstatfs(fd, &fs) < 0)
        return false;
    for (size_t i = 0; !local && i < sizeof types / sizeof *types; i++)
        local = (unsigned)fs.f_type == types[i];
    return local;
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
    dirs->open[dirs->n].local = is_local(fd);
    dirs->open[dirs->n].dev = st.st_dev;
    dirs->open[dirs->n++].ino = st.st_ino;
    return fd;
}

/* Takes the last entry back, of which the others may have the descriptor. */
static void forget(struct path_dirs *dirs) {
    size_t k = 0;
    int fd = dirs->open[--dirs->n].fd;
    while (k < dirs->n && dirs->open[k].fd != fd)
        k++;
    if (k == dirs->n)
        close(fd);
}

/* Opens what the last entry is to hold, making it. Its lock keeps path_prune away; who has taken it
 * away before we had that, did so from under us. Others may lock it for reasons of their own. */
static int open_made(struct path_dirs *dirs, int level, int model, const char *name) {
    struct making how = {dirs, model, name};
    struct stat st;
    if (path_leaf(name) == name) /* the level's own, which is not taken away */
        return keep_open(dirs, open_parent(level, name, NULL));
    for (int attempt = 0; attempt < PRUNES_MAX; attempt++) {
        int fd = keep_open(dirs, open_parent(level, name, &how));
        if (fd < 0 && errno == ENOENT)
            continue;
        if (fd < 0)
            return -1;
        (void)flock(fd, LOCK_SH | LOCK_NB);
        if (fstat(fd, &st) < 0 || st.st_nlink > 0)
            return fd;
        forget(dirs);
    }
    errno = ENOENT;
    return -1;
}

int path_dir(struct path_dirs *dirs, int level, const char *name, int model) {
    bool make = model >= 0;
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
    dirs->meta_rc = MOVE_OK;
    return make ? open_made(dirs, level, model, name)
                : keep_open(dirs, open_parent(level, name, NULL));
}

/* Takes one away, unless somebody is about to put something in. */
static bool prune_one(int parent, const char *component, int dir) {
    struct stat st, named;
    if (flock(dir, LOCK_EX | LOCK_NB) < 0)
        return false;
    bool gone = fstat(dir, &st) == 0 &&
                fstatat(parent, component, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
                st.st_dev == named.st_dev && st.st_ino == named.st_ino &&
                unlinkat(parent, component, AT_REMOVEDIR) == 0;
    flock(dir, LOCK_UN);
    return gone;
}

void path_prune(int dir, const char *name) {
    char folder[PATH_MAX];
    int own = -1;
    size_t len = (size_t)(path_leaf(name) - name);
    if (len == 0 || len >= sizeof folder)
        return;
    memcpy(folder, name, len);
    for (bool gone = true; gone && len > 0;) {
        while (len > 0 && folder[len - 1] == '/')
            len--;
        folder[len] = '\0';
        int parent = openat(dir, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        gone = len > 0 && parent >= 0 && prune_one(parent, path_leaf(folder), dir);
        path_close(&own);
        own = dir = parent;
        len = (size_t)(path_leaf(folder) - folder);
    }
    path_close(&own);
}

bool path_is_local(const struct path_dirs *dirs, int fd) {
    size_t i = 0;
    while (i < dirs->n && dirs->open[i].fd != fd)
        i++;
    return i < dirs->n && dirs->open[i].local;
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

/* Of the descriptors none must stay open in a process that may never end: somebody reads what we
 * write until all have closed it. How full it is no file system knows by heart. */
static int look(const char *path) {
    struct stat st;
    struct statvfs vfs;
    for (int fd = 0; fd < DESCRIPTORS; fd++)
        close(fd);
    if (stat(path, &st) < 0)
        return errno;
    if (!S_ISDIR(st.st_mode))
        return ENOTDIR;
    return statvfs(path, &vfs) < 0 ? errno : 0;
}

int path_look(const char *path, int64_t wait_ms) {
    int status = 0;
    int64_t until_ms = clock_mono_ms() + wait_ms;
    pid_t ended = 0, pid = fork();
    if (pid < 0)
        return -errno;
    if (pid == 0)
        _exit(look(path));
    while ((ended = waitpid(pid, &status, WNOHANG)) == 0 && clock_mono_ms() < until_ms)
        poll(NULL, 0, 1);
    if (ended == pid)
        return WIFEXITED(status) ? -WEXITSTATUS(status) : -EIO;
    kill(pid, SIGKILL); /* in vain perhaps: it is not waited for */
    return -ETIMEDOUT;
}
