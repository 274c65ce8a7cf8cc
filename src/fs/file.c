#include "fs/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/name.h"
#include "base/sys.h"
#include "fs/path.h"
#include "fs/writers.h"

enum { BUFFER_BYTES = 512 * 1024 }; /* larger reads are no faster, smaller ones slower on disks */

static const char *const texts[] = {
    "done",
    "the file does not exist",
    "a part of its path is a symbolic link or no directory",
    "it is not a regular file",
    "a different file has the name at the destination",
    "the file has further hard links",
    "the file is locked or open for writing",
    "the file changed while it was copied",
    "the file was written to after it was copied",
    "no space is left at the destination",
    "the file system does not allow it",
    "the destination's file system can link neither nor rename without replacing",
    "a link was refused, a copy is needed",
    "both levels show the same files",
    "abandoned",
    "what stands at the destination cannot be made durable",
    "input/output error",
    "its metadata cannot be kept at the destination",
    "the file is immutable or append-only (chattr)",
    "its folder at the target was taken away meanwhile",
};

const char *move_rc_text(enum move_rc rc) {
    return texts[rc];
}

enum move_rc file_classify(int error) {
    switch (error) {
    case ENOENT:
        return MOVE_MISSING;
    case ENOTDIR: /* of a link that is not followed too (open(2), O_DIRECTORY) */
        return MOVE_BAD_PATH;
    case ELOOP:
        return MOVE_NOT_REGULAR;
    case ENOSPC:
    case EDQUOT:
        return MOVE_NOSPACE;
    case EPERM:
    case EACCES:
    case EROFS:
        return MOVE_DENIED;
    default:
        return MOVE_IO;
    }
}

/* Opens for reading what `path_fd` (O_PATH) stands for, `leaf` in `dir` a moment ago. */
static int reopen(int path_fd, int dir, const char *leaf, const struct stat *st) {
    const int flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
    char proc[40];
    struct stat again;
    snprintf(proc, sizeof proc, "/proc/self/fd/%d", path_fd);
    int fd = openat(AT_FDCWD, proc, flags);
    if (fd >= 0 || errno != ENOENT)
        return fd;
    fd = openat(dir, leaf, flags | O_NOFOLLOW); /* no /proc: compared instead */
    if (fd >= 0 && (fstat(fd, &again) < 0 || !file_same_inode(&again, st))) {
        path_close(&fd);
        errno = EIO;
    }
    return fd;
}

enum move_rc file_open_regular(int dir, const char *leaf, int *out, struct stat *st) {
    int path_fd = openat(dir, leaf, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (path_fd < 0)
        return file_classify(errno);
    enum move_rc rc = MOVE_OK;
    if (fstat(path_fd, st) < 0)
        rc = MOVE_IO;
    else if (!S_ISREG(st->st_mode))
        rc = MOVE_NOT_REGULAR;
    if (rc == MOVE_OK) {
        int fd = reopen(path_fd, dir, leaf, st);
        if (fd < 0) /* EAGAIN: somebody else's lease, fcntl(2) */
            rc = errno == EAGAIN ? MOVE_BUSY : file_classify(errno);
        else
            *out = fd;
    }
    int saved = errno;
    close(path_fd);
    errno = saved;
    return rc;
}

bool file_same_inode(const struct stat *a, const struct stat *b) {
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

bool file_unchanged(const struct stat *a, const struct stat *b) {
    return file_same_inode(a, b) && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
           a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

struct file_id file_id_of(const struct stat *st) {
    return (struct file_id){.dev = st->st_dev,
                            .ino = st->st_ino,
                            .bytes = (uint64_t)st->st_size,
                            .modified_s = st->st_mtim.tv_sec,
                            .modified_ns = st->st_mtim.tv_nsec};
}

bool file_id_same(const struct file_id *a, const struct file_id *b) {
    return a->dev == b->dev && a->ino == b->ino && a->bytes == b->bytes &&
           a->modified_s == b->modified_s && a->modified_ns == b->modified_ns;
}

void file_id_write(char out[FILE_ID_BYTES], const struct file_id *id) {
    snprintf(out, FILE_ID_BYTES, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRId64 " %" PRId64,
             id->dev, id->ino, id->bytes, id->modified_s, id->modified_ns);
}

bool file_id_read(const char *text, struct file_id *out) {
    struct file_id id;
    int end = 0;
    if (sscanf(text, "%" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNd64 " %" SCNd64 "%n", &id.dev,
               &id.ino, &id.bytes, &id.modified_s, &id.modified_ns, &end) != 5 ||
        text[end] != '\0')
        return false;
    *out = id;
    return true;
}

enum move_rc file_open_afresh(int dir, const char *leaf, int *out, struct stat *st) {
    (void)sys_rename_noreplace(dir, leaf, dir, leaf); /* EEXIST, or ENOENT; else it cannot help */
    enum move_rc rc = file_open_regular(dir, leaf, out, st);
    if (rc != MOVE_OK || sys_stat_fresh(*out, st) == 0)
        return rc;
    int error = errno;
    path_close(out);
    errno = error;
    return error == ESTALE ? MOVE_MISSING : file_classify(error);
}

enum move_rc file_open_below(int level, const char *name, int *out, struct stat *st) {
    int dir = path_open_parent(level, name);
    if (dir < 0)
        return file_classify(errno);
    enum move_rc rc = file_open_afresh(dir, path_leaf(name), out, st);
    path_close(&dir);
    return rc;
}

enum move_rc file_settle(int level, const char *name, int fd, const struct stat *st) {
    struct stat now;
    if (writers_seen(fd, false))
        return MOVE_BUSY;
    int dir = path_open_parent(level, name);
    enum move_rc rc = dir < 0 || fsync(fd) < 0 || fsync(dir) < 0 ? MOVE_UNDURABLE : MOVE_OK;
    if (rc == MOVE_OK && (sys_stat_fresh(fd, &now) < 0 || !file_unchanged(&now, st) ||
                          fstatat(dir, path_leaf(name), &now, AT_SYMLINK_NOFOLLOW) < 0 ||
                          !file_same_inode(&now, st)))
        rc = MOVE_BUSY;
    int saved = errno;
    path_close(&dir);
    errno = saved;
    return rc;
}

int file_is_listed(int dir, const char *leaf) {
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;
    if (!d) {
        path_close(&fd);
        return -1;
    }
    do {
        errno = 0;
        e = readdir(d);
    } while (e && strcmp(e->d_name, leaf) != 0);
    int error = errno;
    closedir(d);
    errno = error;
    return e ? 1 : error ? -1 : 0;
}

ssize_t file_read_full(int fd, char *buffer, size_t n, off_t at) {
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

int file_identical(int a, int b, uint64_t size, move_tick_fn *tick, void *ctx) {
    char *buffer = malloc(2 * BUFFER_BYTES);
    if (!buffer)
        return -1;
    int same = 1;
    for (uint64_t at = 0; same == 1 && at < size; at += BUFFER_BYTES) {
        size_t want = size - at < BUFFER_BYTES ? (size_t)(size - at) : BUFFER_BYTES;
        ssize_t n = file_read_full(a, buffer, want, (off_t)at);
        ssize_t k = file_read_full(b, buffer + BUFFER_BYTES, want, (off_t)at);
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

static uint64_t in_bytes(uint64_t blocks, uint64_t block) {
    uint64_t bytes;
    return __builtin_mul_overflow(blocks, block ? block : 1, &bytes) ? UINT64_MAX : bytes;
}

uint64_t file_used_bytes(const struct statvfs *vfs) {
    return vfs->f_bfree < vfs->f_blocks ? in_bytes(vfs->f_blocks - vfs->f_bfree, vfs->f_frsize) : 0;
}

uint64_t file_free_bytes(const struct statvfs *vfs) {
    return in_bytes(vfs->f_bavail, vfs->f_frsize);
}

void file_sync_dirs(const int *dirs, size_t n, int *errors, file_between_fn *between, void *ctx) {
    for (size_t i = 0; i < n; i++) {
        size_t k = 0;
        errors[i] = 0;
        while (k < i && dirs[k] != dirs[i])
            k++;
        if (dirs[i] < 0)
            continue;
        if (k == i && between)
            between(ctx);
        errors[i] = k < i ? errors[k] : fsync(dirs[i]) < 0 ? errno : 0;
    }
}

int file_publish_temp(int dir, const char *temp, const char *leaf) {
    if (linkat(dir, temp, dir, leaf, 0) == 0)
        return unlinkat(dir, temp, 0);
    if (errno == EEXIST)
        return -1;
    return sys_rename_noreplace(dir, temp, dir, leaf);
}

void file_temp_name(char out[FILE_TEMP_BYTES], uint64_t cid) {
    snprintf(out, FILE_TEMP_BYTES, NAME_PRIVATE_PREFIX "-tmp.%" PRIu64, cid);
}

bool file_drop_temp(int dir, uint64_t cid, const struct stat *held) {
    char name[FILE_TEMP_BYTES];
    struct stat st;
    file_temp_name(name, cid);
    int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT;
    bool ours = held && fstat(fd, &st) == 0 && file_same_inode(&st, held);
    bool alive = !ours && flock(fd, LOCK_EX | LOCK_NB) < 0;
    bool gone = !alive && unlinkat(dir, name, 0) == 0;
    path_close(&fd);
    return gone;
}
