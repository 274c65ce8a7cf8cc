#include "worker/move.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "base/sys.h"

enum {
    BUFFER_BYTES =
        512 * 1024, /* past it copying gets no faster, below it slower on spinning disks */
    CHUNK_BYTES = 8 * 1024 * 1024, /* between two ticks: some 100 ms on a slow disk */
    SMALL_BYTES = 64 * 1024,       /* below it advice costs more than it gives */
    XATTR_LIST_BYTES = 65536,      /* XATTR_LIST_MAX, XATTR_SIZE_MAX of Linux */
};
#ifndef FICLONE
#define FICLONE _IOW(0x94, 9, int) /* linux/fs.h */
#endif

static const char *const texts[] = {
    "done",
    "the file does not exist",
    "it is not a regular file",
    "a different file has the name at the destination",
    "the file has further hard links",
    "the file is locked or open for writing",
    "the file changed while it was copied",
    "no space is left at the destination",
    "the file system does not allow it",
    "the destination's file system can link neither nor rename without replacing",
    "a link was refused, a copy is needed",
    "both levels are the same directory",
    "abandoned",
    "input/output error",
};

const char *move_rc_text(enum move_rc rc) {
    return texts[rc];
}

static enum move_rc classify(int error) {
    switch (error) {
    case ENOENT:
    case ENOTDIR:
        return MOVE_MISSING;
    case ELOOP:
        return MOVE_NOT_REGULAR;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return MOVE_NOSPACE;
    case EPERM:
    case EACCES:
    case EROFS:
        return MOVE_DENIED;
    default:
        return MOVE_IO;
    }
}

static enum move_rc failed(struct move *m, const char *step) {
    m->error = errno;
    m->step = step;
    return classify(m->error);
}

static void close_fd(int *fd) {
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* ---- directories ---- */

/* A directory younger than this may have been made by somebody who was killed before its own name
 * was durable; its parent is synced again. */
enum { YOUNG_S = 60 };

static bool young(int fd) {
    struct stat st;
    return fstat(fd, &st) == 0 && time(NULL) - st.st_ctim.tv_sec < YOUNG_S;
}

/* Opens one component below `dir`, which it closes. With `like` a missing one is made, with that
 * owner and mode, and its name is durable when this returns. */
static int step_into(int dir, const char *component, const struct stat *like) {
    int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    int fd = openat(dir, component, flags);
    bool made = false;
    if (fd < 0 && errno == ENOENT && like) {
        made = mkdirat(dir, component, like->st_mode & 07777) == 0;
        if (made || errno == EEXIST)
            fd = openat(dir, component, flags);
        if (made && fd >= 0 && fchown(fd, like->st_uid, like->st_gid) == 0)
            (void)fchmod(fd, like->st_mode & 07777); /* as near to the level as we may */
    }
    if (fd >= 0 && like && (made || young(fd)) && fsync(dir) < 0) {
        int error = errno;
        close_fd(&fd);
        errno = error;
    }
    int saved = errno;
    close(dir);
    errno = saved;
    return fd;
}

/* Opens the directory that holds the last component of `name` below `level`. With `create`, missing
 * directories are made, with owner and mode of the level's own. -1 with errno. */
static int open_parent(int level, const char *name, bool create) {
    struct stat like;
    int dir = openat(level, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0 || fstat(dir, &like) < 0)
        return -1;
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
        dir = step_into(dir, component, create ? &like : NULL);
    }
    return dir;
}

static const char *leaf_of(const char *name) {
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

int move_open_level(const char *path, const char *const *roots, size_t n_roots) {
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
        int fd = open_parent(root, rest, false);
        int error = errno;
        close(root);
        return fd < 0 ? -error : fd;
    }
    return -EXDEV;
}

/* ---- looking ---- */

/* Opens a regular file for reading without ever opening anything else: a plain open of a FIFO
 * hangs, of a device has effects. */
static enum move_rc open_regular(int dir, const char *leaf, int *out, struct stat *st) {
    int path_fd = openat(dir, leaf, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (path_fd < 0)
        return classify(errno);
    enum move_rc rc = MOVE_OK;
    if (fstat(path_fd, st) < 0)
        rc = MOVE_IO;
    else if (!S_ISREG(st->st_mode))
        rc = MOVE_NOT_REGULAR;
    if (rc == MOVE_OK) {
        char proc[40];
        snprintf(proc, sizeof proc, "/proc/self/fd/%d", path_fd);
        int fd = open(proc, O_RDONLY | O_CLOEXEC);
        if (fd < 0 && errno == ENOENT) { /* no /proc: the descriptor is compared instead */
            struct stat again;
            fd = openat(dir, leaf, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
            if (fd >= 0 && (fstat(fd, &again) < 0 || again.st_ino != st->st_ino ||
                            again.st_dev != st->st_dev)) {
                close_fd(&fd);
                errno = EIO;
            }
        }
        if (fd < 0)
            rc = classify(errno);
        else
            *out = fd;
    }
    int saved = errno;
    close(path_fd);
    errno = saved;
    return rc;
}

static bool same_inode(const struct stat *a, const struct stat *b) {
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Nothing was written to it: what any write changes is as it was. */
static bool unchanged(const struct stat *a, const struct stat *b) {
    return same_inode(a, b) && a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
           a->st_mtim.tv_nsec == b->st_mtim.tv_nsec && a->st_ctim.tv_sec == b->st_ctim.tv_sec &&
           a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

static ssize_t read_full(int fd, char *buffer, size_t n, off_t at) {
    size_t got = 0;
    while (got < n) {
        ssize_t k = pread(fd, buffer + got, n - got, at + (off_t)got);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return -1;
        if (k == 0)
            break;
        got += (size_t)k;
    }
    return (ssize_t)got;
}

/* 1: byte for byte the same; 0: not; -1 with errno. */
static int identical(int a, int b, uint64_t size, move_tick_fn *tick, void *ctx) {
    char *buffer = malloc(2 * BUFFER_BYTES);
    if (!buffer)
        return -1;
    int same = 1;
    for (uint64_t at = 0; same == 1 && at < size; at += BUFFER_BYTES) {
        size_t want = size - at < BUFFER_BYTES ? (size_t)(size - at) : BUFFER_BYTES;
        ssize_t n = read_full(a, buffer, want, (off_t)at);
        ssize_t k = read_full(b, buffer + BUFFER_BYTES, want, (off_t)at);
        if (n < 0 || k < 0)
            same = -1;
        else
            same = n == k && (size_t)n == want && memcmp(buffer, buffer + BUFFER_BYTES, want) == 0;
        if (same == 1 && tick && tick(ctx, at, size) != 0) {
            errno = ECANCELED;
            same = -1;
        }
    }
    int saved = errno;
    free(buffer);
    errno = saved;
    return same;
}

/* ---- begin ---- */

static bool open_for_writing(int fd) {
    if (fcntl(fd, F_SETLEASE, F_RDLCK) == 0) {
        fcntl(fd, F_SETLEASE, F_UNLCK);
        return false;
    }
    return errno == EAGAIN; /* others: this file system or user cannot tell */
}

/* Further names are ours when an earlier attempt linked the file or renamed it for retirement. */
static bool names_are_ours(struct move *m, int dst_level) {
    struct stat st;
    char old[40];
    nlink_t ours = 1;
    int dir = open_parent(dst_level, m->name, false);
    if (dir >= 0 && fstatat(dir, m->leaf, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        same_inode(&st, &m->src))
        ours++;
    snprintf(old, sizeof old, NAME_PRIVATE_PREFIX "-old.%" PRIu64, m->cid);
    if (dir >= 0 && fstatat(dir, old, &st, AT_SYMLINK_NOFOLLOW) == 0 && same_inode(&st, &m->src))
        ours++;
    if (fstatat(m->src_dir, old, &st, AT_SYMLINK_NOFOLLOW) == 0 && same_inode(&st, &m->src))
        ours++;
    close_fd(&dir);
    return m->src.st_nlink == ours;
}

enum move_rc move_begin(struct move *m, uint64_t cid, int src_level, int dst_level,
                        const char *name) {
    *m = (struct move){.cid = cid,
                       .name = name,
                       .leaf = leaf_of(name),
                       .src_dir = -1,
                       .dst_dir = -1,
                       .src_fd = -1,
                       .dst_fd = -1,
                       .step = "open the source"};
    m->src_dir = open_parent(src_level, name, false);
    if (m->src_dir < 0)
        return failed(m, "open the source's directory");
    enum move_rc rc = open_regular(m->src_dir, m->leaf, &m->src_fd, &m->src);
    if (rc != MOVE_OK) {
        m->error = errno;
        return rc;
    }
    m->step = "lock the source";
    if (flock(m->src_fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
        return MOVE_BUSY;
    if (m->src.st_nlink > 1 && !names_are_ours(m, dst_level))
        return MOVE_HARDLINKS;
    if (open_for_writing(m->src_fd))
        return MOVE_BUSY;
    m->step = "open the destination's directory";
    m->dst_dir = open_parent(dst_level, name, true);
    if (m->dst_dir < 0) {
        rc = failed(m, m->step);
        return rc == MOVE_MISSING ? MOVE_IO : rc; /* MISSING speaks of the source alone */
    }
    struct stat a, b;
    if (fstat(m->src_dir, &a) < 0 || fstat(m->dst_dir, &b) < 0)
        return failed(m, "look at the directories");
    return same_inode(&a, &b) ? MOVE_ALIAS : MOVE_OK;
}

void move_release(struct move *m) {
    if (m->temp_name[0])
        unlinkat(m->dst_dir, m->temp_name, 0); /* our own staged copy, never a content's name */
    m->temp_name[0] = '\0';
    close_fd(&m->src_fd);
    close_fd(&m->dst_fd);
    close_fd(&m->src_dir);
    close_fd(&m->dst_dir);
}

/* ---- adopt ---- */

/* What stands under the name at the destination: MOVE_OK with `adopted`, MOVE_MISSING, or
 * MOVE_CONFLICT. */
static enum move_rc adopt(struct move *m, move_tick_fn *tick, void *ctx) {
    struct stat st = {0};
    int fd = -1;
    enum move_rc rc = open_regular(m->dst_dir, m->leaf, &fd, &st);
    if (rc == MOVE_NOT_REGULAR)
        return MOVE_CONFLICT;
    if (rc != MOVE_OK)
        return rc == MOVE_MISSING ? rc : failed(m, "open what stands at the destination");
    bool same_file = same_inode(&st, &m->src);
    int same = same_file || (st.st_size == m->src.st_size &&
                             identical(m->src_fd, fd, (uint64_t)st.st_size, tick, ctx));
    if (same != 1) {
        rc = same == 0            ? MOVE_CONFLICT
             : errno == ECANCELED ? MOVE_ABANDONED
                                  : failed(m, "compare with the destination");
        close(fd);
        return rc;
    }
    if (!same_file && flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK) {
        close(fd);
        return MOVE_BUSY;
    }
    close_fd(&m->dst_fd);
    m->dst_fd = fd;
    m->dst = st;
    m->adopted = true;
    m->linked = same_file;
    if (fsync(fd) < 0 || fsync(m->dst_dir) < 0)
        return failed(m, "make the destination durable");
    return MOVE_OK;
}

/* ---- copy ---- */

static enum move_rc open_temp_name(struct move *m) {
    snprintf(m->temp_name, sizeof m->temp_name, NAME_PRIVATE_PREFIX "-tmp.%" PRIu64, m->cid);
    for (int attempt = 0; attempt < 2; attempt++) {
        m->dst_fd = openat(m->dst_dir, m->temp_name,
                           O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (m->dst_fd >= 0)
            return MOVE_OK;
        if (errno != EEXIST)
            break;
        /* Whoever made it and lives holds its lock. */
        int fd = openat(m->dst_dir, m->temp_name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        bool alive = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0;
        if (!alive)
            unlinkat(m->dst_dir, m->temp_name, 0);
        close_fd(&fd);
        if (alive) {
            m->temp_name[0] = '\0';
            return MOVE_BUSY;
        }
    }
    m->temp_name[0] = '\0';
    return failed(m, "make a temporary file");
}

static enum move_rc open_unnamed(struct move *m) {
    enum move_rc rc = MOVE_OK;
    if (!m->force_temp_name)
        m->dst_fd = openat(m->dst_dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (m->dst_fd < 0 && (m->force_temp_name || errno == EOPNOTSUPP || errno == EISDIR ||
                          errno == EINVAL || errno == ENOENT))
        rc = open_temp_name(m);
    else if (m->dst_fd < 0)
        rc = failed(m, "make a temporary file");
    if (rc == MOVE_OK)
        flock(m->dst_fd, LOCK_EX | LOCK_NB);
    return rc;
}

static bool sparse(const struct stat *st) {
    return (uint64_t)st->st_blocks * 512 < (uint64_t)st->st_size;
}

/* Room for the data, before the first byte is written. Preallocation would fill holes, so only
 * files without any get it; file systems that cannot simply go on. */
static enum move_rc reserve(struct move *m) {
    struct statvfs vfs;
    uint64_t need = (uint64_t)m->src.st_blocks * 512;
    if (need < SMALL_BYTES)
        return MOVE_OK;
    if (fstatvfs(m->dst_fd, &vfs) == 0 && (uint64_t)vfs.f_bavail * vfs.f_frsize < need) {
        errno = ENOSPC;
        return failed(m, "reserve space");
    }
    if (!sparse(&m->src) && fallocate(m->dst_fd, 0, 0, m->src.st_size) < 0 &&
        (errno == ENOSPC || errno == EDQUOT || errno == EFBIG))
        return failed(m, "reserve space");
    return MOVE_OK;
}

struct copy {
    struct move *m;
    char *buffer; /* NULL while the kernel copies */
    move_tick_fn *tick;
    void *ctx;
    uint64_t done;
};

/* One short run in user space: at most BUFFER_BYTES. */
static ssize_t copy_by_hand(struct copy *c, off_t at, size_t n) {
    if (!c->buffer && !(c->buffer = malloc(BUFFER_BYTES)))
        return -1;
    n = n < BUFFER_BYTES ? n : BUFFER_BYTES;
    ssize_t got = read_full(c->m->src_fd, c->buffer, n, at);
    for (ssize_t put = 0; put < got;) {
        ssize_t k = pwrite(c->m->dst_fd, c->buffer + put, (size_t)(got - put), at + put);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return -1;
        put += k;
    }
    return got;
}

static ssize_t copy_some(struct copy *c, off_t at, size_t n) {
    if (!c->buffer) {
        off_t in = at, out = at;
        ssize_t k = copy_file_range(c->m->src_fd, &in, c->m->dst_fd, &out, n, 0);
        if (k > 0)
            return k;
        if (k < 0 && errno != EXDEV && errno != ENOSYS && errno != EOPNOTSUPP && errno != EINVAL &&
            errno != EPERM && errno != EBADF && errno != ETXTBSY && errno != EINTR)
            return -1;
        if (k < 0 && errno == EINTR)
            return -2;
    }
    return copy_by_hand(c, at, n); /* and 0 before the end is settled by reading */
}

static enum move_rc copy_segment(struct copy *c, off_t from, off_t to) {
    struct move *m = c->m;
    off_t flushed = from;
    while (from < to) {
        size_t n = to - from < CHUNK_BYTES ? (size_t)(to - from) : CHUNK_BYTES;
        ssize_t k = copy_some(c, from, n);
        if (k == -2)
            continue;
        if (k < 0)
            return failed(m, "copy");
        if (k == 0)
            return MOVE_CHANGED; /* it ends before its size: truncated under way */
        from += k;
        c->done += (uint64_t)k;
        if (from - flushed >= CHUNK_BYTES) { /* write out as we go, so the final fsync is short */
            sync_file_range(m->dst_fd, flushed, from - flushed, SYNC_FILE_RANGE_WRITE);
            flushed = from;
        }
        if (c->tick && c->tick(c->ctx, c->done, (uint64_t)m->src.st_size) != 0)
            return MOVE_ABANDONED;
    }
    return MOVE_OK;
}

static enum move_rc copy_data(struct copy *c) {
    struct move *m = c->m;
    off_t size = m->src.st_size;
    if (size >= SMALL_BYTES && ioctl(m->dst_fd, FICLONE, m->src_fd) == 0)
        return MOVE_OK;
    if (!sparse(&m->src))
        return copy_segment(c, 0, size);
    for (off_t at = 0; at < size;) {
        off_t data = lseek(m->src_fd, at, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            break; /* a hole up to the end */
        off_t hole = data < 0 ? -1 : lseek(m->src_fd, data, SEEK_HOLE);
        if (data < 0 || hole < 0) { /* this file system does not tell: copy all that is left */
            data = at;
            hole = size;
        }
        enum move_rc rc = copy_segment(c, data, hole < size ? hole : size);
        if (rc != MOVE_OK)
            return rc;
        at = hole;
    }
    return ftruncate(m->dst_fd, size) < 0 ? failed(m, "set the size") : MOVE_OK;
}

static enum move_rc copy_xattr(struct move *m, const char *name, char *value) {
    ssize_t n = fgetxattr(m->src_fd, name, value, XATTR_LIST_BYTES);
    if (n < 0)
        return errno == ENODATA ? MOVE_CHANGED : failed(m, "read an extended attribute");
    if (fsetxattr(m->dst_fd, name, value, (size_t)n, 0) == 0)
        return MOVE_OK;
    /* Labels are the destination's own policy; what a user set must not get lost silently. */
    if (strncmp(name, "security.", 9) == 0 &&
        (errno == EPERM || errno == ENOTSUP || errno == EACCES))
        return MOVE_OK;
    enum move_rc rc = failed(m, "keep an extended attribute");
    return m->error == ENOTSUP ? MOVE_DENIED : rc;
}

static enum move_rc copy_xattrs(struct move *m) {
    ssize_t n = flistxattr(m->src_fd, NULL, 0);
    if (n == 0 || (n < 0 && errno == ENOTSUP))
        return MOVE_OK;
    char *list = malloc(2 * XATTR_LIST_BYTES);
    if (!list)
        return failed(m, "list extended attributes");
    n = flistxattr(m->src_fd, list, XATTR_LIST_BYTES);
    enum move_rc rc = n < 0 ? failed(m, "list extended attributes") : MOVE_OK;
    for (char *name = list; rc == MOVE_OK && name < list + n; name += strlen(name) + 1)
        rc = copy_xattr(m, name, list + XATTR_LIST_BYTES);
    free(list);
    return rc;
}

static enum move_rc copy_metadata(struct move *m) {
    struct stat st;
    if (fstat(m->dst_fd, &st) < 0)
        return failed(m, "look at the copy");
    if ((st.st_uid != m->src.st_uid || st.st_gid != m->src.st_gid) &&
        fchown(m->dst_fd, m->src.st_uid, m->src.st_gid) < 0)
        return failed(m, "keep the owner");
    if (fchmod(m->dst_fd, m->src.st_mode & 07777) < 0) /* after chown, which clears setuid */
        return failed(m, "keep the mode");
    enum move_rc rc = copy_xattrs(m);
    if (rc != MOVE_OK)
        return rc;
    struct timespec times[2] = {m->src.st_atim, m->src.st_mtim};
    return futimens(m->dst_fd, times) < 0 ? failed(m, "keep the times") : MOVE_OK;
}

/* By the descriptor and by the name: neither written to nor replaced while we read. */
static enum move_rc check_source(struct move *m) {
    struct stat by_fd, by_name;
    if (fstat(m->src_fd, &by_fd) < 0)
        return failed(m, "look at the source again");
    if (fstatat(m->src_dir, m->leaf, &by_name, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? MOVE_MISSING : failed(m, "look at the source again");
    return unchanged(&by_fd, &m->src) && unchanged(&by_name, &m->src) ? MOVE_OK : MOVE_CHANGED;
}

static enum move_rc verify_copy(struct move *m, move_tick_fn *tick, void *ctx) {
    posix_fadvise(m->dst_fd, 0, 0, POSIX_FADV_DONTNEED); /* clean pages go: read the device */
    int same = identical(m->src_fd, m->dst_fd, (uint64_t)m->src.st_size, tick, ctx);
    if (same == 1)
        return MOVE_OK;
    if (same < 0)
        return errno == ECANCELED ? MOVE_ABANDONED : failed(m, "verify the copy");
    errno = EIO;
    return failed(m, "verify the copy");
}

static enum move_rc stage_copy(struct move *m, move_tick_fn *tick, void *ctx) {
    struct copy c = {.m = m, .tick = tick, .ctx = ctx};
    enum move_rc rc = open_unnamed(m);
    if (rc == MOVE_OK)
        rc = reserve(m);
    if (rc == MOVE_OK && m->src.st_size >= SMALL_BYTES)
        posix_fadvise(m->src_fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    if (rc == MOVE_OK)
        rc = copy_data(&c);
    free(c.buffer);
    if (rc == MOVE_OK)
        rc = copy_metadata(m);
    if (rc == MOVE_OK)
        rc = check_source(m);
    if (rc == MOVE_OK &&
        fsync(m->dst_fd) < 0) /* once: after a failure the pages are marked clean */
        rc = failed(m, "make the copy durable");
    if (rc == MOVE_OK && m->verify)
        rc = verify_copy(m, tick, ctx);
    if (rc == MOVE_OK && fstat(m->dst_fd, &m->dst) < 0)
        rc = failed(m, "look at the copy");
    return rc;
}

enum move_rc move_stage(struct move *m, move_tick_fn *tick, void *ctx) {
    enum move_rc rc = adopt(m, tick, ctx);
    if (rc != MOVE_MISSING)
        return rc;
    struct stat dir;
    if (fstat(m->dst_dir, &dir) < 0)
        return failed(m, "look at the destination's directory");
    if (dir.st_dev != m->src.st_dev || m->link_refused)
        return stage_copy(m, tick, ctx);
    m->linked = true;
    m->dst = m->src;
    if (fsync(m->src_fd) < 0)
        return failed(m, "make the source durable");
    return check_source(m);
}

/* ---- publish ---- */

/* linkat(2) of an open file: by the descriptor where we may, else through /proc. */
static int link_fd(int fd, int dir, const char *leaf) {
    if (linkat(fd, "", dir, leaf, AT_EMPTY_PATH) == 0)
        return 0;
    if (errno != ENOENT && errno != EPERM && errno != EINVAL)
        return -1;
    char proc[40];
    snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd);
    return linkat(AT_FDCWD, proc, dir, leaf, AT_SYMLINK_FOLLOW);
}

/* From a temporary name to the final one, replacing nothing. */
static int rename_temp(int dir, const char *temp, const char *leaf) {
    if (linkat(dir, temp, dir, leaf, 0) == 0)
        return unlinkat(dir, temp, 0);
    if (errno == EEXIST)
        return -1;
    return sys_rename_noreplace(dir, temp, dir, leaf);
}

enum move_rc move_publish(struct move *m) {
    if (m->adopted)
        return MOVE_OK;
    int rc = m->temp_name[0] ? rename_temp(m->dst_dir, m->temp_name, m->leaf)
                             : link_fd(m->linked ? m->src_fd : m->dst_fd, m->dst_dir, m->leaf);
    if (rc < 0 && errno == EEXIST) {
        enum move_rc found = adopt(m, NULL, NULL);
        return found == MOVE_MISSING ? MOVE_BUSY : found;
    }
    if (rc < 0 && m->linked) {
        m->linked = false;
        m->link_refused = true;
        return MOVE_RESTAGE;
    }
    if (rc < 0 && (errno == ENOSYS || errno == EINVAL || errno == EOPNOTSUPP))
        return MOVE_UNSUPPORTED;
    if (rc < 0)
        return failed(m, "publish");
    m->temp_name[0] = '\0';
    if (fsync(m->dst_dir) < 0)
        return failed(m, "make the new name durable");
    return MOVE_OK;
}

/* ---- retire ---- */

struct retiring {
    const struct retire *r;
    int spare_dir, auth_dir;
    const char *leaf;
    char old[40];
    int error;
};

/* The descriptor of this process that holds the lock on that inode, or -1. */
static int known_fd(const struct retire *r, const struct stat *st) {
    if (r->move && r->move->src_fd >= 0 && same_inode(st, &r->move->src))
        return r->move->src_fd;
    if (r->move && r->move->dst_fd >= 0 && same_inode(st, &r->move->dst))
        return r->move->dst_fd;
    return -1;
}

/* Whether the authoritative copy stands, whole, and holds what the spare holds. */
static enum move_rc check_authority(struct retiring *t, int spare_fd, const struct stat *spare) {
    struct stat st = {0};
    int fd = -1;
    enum move_rc rc = open_regular(t->auth_dir, t->leaf, &fd, &st);
    if (rc != MOVE_OK)
        return rc;
    const struct move *m = t->r->move;
    bool staged = m && same_inode(&st, &m->dst) && same_inode(spare, &m->src) &&
                  st.st_size == m->dst.st_size && spare->st_size == m->src.st_size &&
                  spare->st_mtim.tv_sec == m->src.st_mtim.tv_sec &&
                  spare->st_mtim.tv_nsec == m->src.st_mtim.tv_nsec;
    if (!staged && !same_inode(&st, spare)) {
        int same = st.st_size == spare->st_size
                       ? identical(spare_fd, fd, (uint64_t)st.st_size, NULL, NULL)
                       : 0;
        rc = same == 1 ? MOVE_OK : same == 0 ? MOVE_CHANGED : MOVE_IO;
        if (rc == MOVE_OK && fsync(fd) < 0)
            rc = MOVE_IO;
    }
    t->error = errno;
    close(fd);
    return rc;
}

static enum move_rc put_back(struct retiring *t, enum move_rc why) {
    int saved = t->error;
    if (sys_rename_noreplace(t->spare_dir, t->old, t->spare_dir, t->leaf) < 0 &&
        (errno == EINVAL || errno == ENOSYS) &&
        linkat(t->spare_dir, t->old, t->spare_dir, t->leaf, 0) == 0)
        unlinkat(t->spare_dir, t->old, 0);
    fsync(t->spare_dir);
    t->error = saved;
    return why;
}

/* Judges what stands under the private name: removes it, or puts it back. */
static enum move_rc judge(struct retiring *t) {
    struct stat st = {0};
    int own = -1;
    enum move_rc rc = open_regular(t->spare_dir, t->old, &own, &st);
    if (rc != MOVE_OK) {
        t->error = errno;
        return rc;
    }
    if (known_fd(t->r, &st) < 0 && flock(own, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK) {
        close(own);
        return MOVE_BUSY;
    }
    rc = check_authority(t, own, &st);
    if (rc == MOVE_OK) {
        int yes = t->r->confirm(t->r->ctx);
        rc = yes == 1 ? MOVE_OK : yes == 0 ? MOVE_CHANGED : MOVE_BUSY;
    }
    if (rc != MOVE_OK) {
        rc = put_back(t, rc == MOVE_MISSING ? MOVE_CHANGED : rc);
    } else if (unlinkat(t->spare_dir, t->old, 0) < 0 || fsync(t->spare_dir) < 0) {
        t->error = errno;
        rc = MOVE_IO;
    }
    close(own);
    return rc;
}

/* Whether what has the name is ours to take away, before anything is touched. */
static enum move_rc look_first(struct retiring *t) {
    struct stat st = {0};
    int fd = -1;
    enum move_rc rc = open_regular(t->spare_dir, t->leaf, &fd, &st);
    if (rc != MOVE_OK)
        return rc;
    if (t->r->move) {
        const struct move *m = t->r->move;
        bool ours = same_inode(&st, &m->src) &&
                    (m->linked || unchanged(&st, &m->src)); /* a link changes the ctime itself */
        rc = ours ? MOVE_OK : MOVE_CHANGED;
    } else {
        rc = flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK ? MOVE_BUSY : MOVE_OK;
        if (rc == MOVE_OK)
            rc = check_authority(t, fd, &st);
        if (rc == MOVE_MISSING)
            rc = MOVE_CHANGED;
        if (rc == MOVE_OK) {
            int yes = t->r->confirm(t->r->ctx);
            rc = yes == 1 ? MOVE_OK : yes == 0 ? MOVE_CHANGED : MOVE_BUSY;
        }
    }
    close(fd);
    return rc;
}

static enum move_rc rename_and_judge(struct retiring *t) {
    int rc = sys_rename_noreplace(t->spare_dir, t->leaf, t->spare_dir, t->old);
    if (rc < 0 && (errno == EINVAL || errno == ENOSYS)) {
        rc = linkat(t->spare_dir, t->leaf, t->spare_dir, t->old, 0);
        if (rc == 0)
            rc = unlinkat(t->spare_dir, t->leaf, 0);
    }
    if (rc < 0) {
        t->error = errno;
        return classify(errno);
    }
    return judge(t);
}

static enum move_rc retire_in(struct retiring *t) {
    struct stat a, b;
    if (fstat(t->spare_dir, &a) < 0 || fstat(t->auth_dir, &b) < 0)
        return MOVE_IO;
    if (same_inode(&a, &b))
        return MOVE_ALIAS;
    enum move_rc rc = MOVE_OK;
    if (fstatat(t->spare_dir, t->old, &a, AT_SYMLINK_NOFOLLOW) == 0)
        rc = judge(t); /* left by an attempt that was killed */
    if (rc != MOVE_OK)
        return rc;
    rc = look_first(t);
    if (rc == MOVE_MISSING)
        return MOVE_OK;
    return rc == MOVE_OK ? rename_and_judge(t) : rc;
}

enum move_rc move_retire(const struct retire *r, int *error) {
    struct retiring t = {.r = r, .leaf = leaf_of(r->name)};
    snprintf(t.old, sizeof t.old, NAME_PRIVATE_PREFIX "-old.%" PRIu64, r->cid);
    t.spare_dir = open_parent(r->spare_level, r->name, false);
    if (t.spare_dir < 0) {
        *error = errno;
        return errno == ENOENT ? MOVE_OK : classify(errno);
    }
    t.auth_dir = open_parent(r->auth_level, r->name, false);
    enum move_rc rc = MOVE_CHANGED; /* the authoritative copy is not there: keep what we have */
    if (t.auth_dir >= 0)
        rc = retire_in(&t);
    *error = t.error;
    close_fd(&t.spare_dir);
    close_fd(&t.auth_dir);
    return rc;
}
