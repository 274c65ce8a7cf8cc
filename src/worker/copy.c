#include "worker/copy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

enum {
    BUFFER_BYTES =
        512 * 1024, /* past it copying gets no faster, below it slower on spinning disks */
    CHUNK_BYTES = 8 * 1024 * 1024,  /* between two ticks: some 100 ms on a slow disk */
    BEHIND_BYTES = 4 * CHUNK_BYTES, /* unwritten at most, so that the last fsync is short */
    SMALL_BYTES = 64 * 1024,        /* below it advice and tricks cost more than they give */
    LIST_BYTES = 1024,   /* nearly every list and value fits; else what the kernel allows: */
    XATTR_BYTES = 65536, /* XATTR_LIST_MAX, XATTR_SIZE_MAX */
    DIRECT_ALIGN = 4096, /* the largest logical block of devices, for O_DIRECT */
};
#ifndef FICLONE
#define FICLONE _IOW(0x94, 9, int) /* linux/fs.h */
#endif

struct run {
    int from, to;
    char *buffer; /* NULL while the kernel copies */
    size_t buffer_bytes;
    char *own; /* what is to be freed */
    struct copy_watch watch;
    uint64_t done, total;
    off_t flushed, waited; /* writing was begun up to here; was waited for up to here */
};

static int ask(const struct copy_watch *watch, uint64_t done, uint64_t total) {
    return watch->tick && watch->tick(watch->ctx, done, total) != 0 ? -ECANCELED : 0;
}

/* ---- reading and writing ---- */

/* Up to n bytes, less only at the end of the file. */
static ssize_t read_full(int fd, char *buffer, size_t n, off_t at) {
    size_t got = 0;
    while (got < n) {
        ssize_t k = pread(fd, buffer + got, n - got, at + (off_t)got);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return -errno;
        if (k == 0)
            break;
        got += (size_t)k;
    }
    return (ssize_t)got;
}

static int write_full(int fd, const char *buffer, size_t n, off_t at) {
    for (size_t put = 0; put < n;) {
        ssize_t k = pwrite(fd, buffer + put, n - put, at + (off_t)put);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return k < 0 ? -errno : -EIO;
        put += (size_t)k;
    }
    return 0;
}

static ssize_t copy_by_hand(struct run *r, off_t at, size_t n) {
    if (!r->buffer) {
        r->own = malloc(BUFFER_BYTES);
        if (!r->own)
            return -ENOMEM;
        r->buffer = r->own;
        r->buffer_bytes = BUFFER_BYTES;
    }
    ssize_t got = read_full(r->from, r->buffer, n < r->buffer_bytes ? n : r->buffer_bytes, at);
    if (got <= 0)
        return got;
    int rc = write_full(r->to, r->buffer, (size_t)got, at);
    return rc < 0 ? rc : got;
}

/* The kernel's way, until it refuses once. Many errors mean "not between these two" (EXDEV, ENOSYS,
 * EOPNOTSUPP, EINVAL, EPERM, EBADF, ETXTBSY, some file systems' EAGAIN or EIO), and 0 before the
 * end means it too: reading and writing by hand does without, or meets the real error again. */
static ssize_t copy_some(struct run *r, off_t at, size_t n) {
    while (!r->buffer) {
        off_t in = at, out = at;
        ssize_t k = copy_file_range(r->from, &in, r->to, &out, n, 0);
        if (k > 0)
            return k;
        if (k < 0 && (errno == ENOSPC || errno == EDQUOT || errno == EFBIG))
            return -errno;
        if (k == 0 || errno != EINTR)
            break;
        if (ask(&r->watch, r->done, r->total) < 0)
            return -ECANCELED;
    }
    return copy_by_hand(r, at, n);
}

/* ---- keeping the device busy ---- */

/* An error found here is told once: fsync would not see it again. */
static int begin_and_await(int fd, off_t from, off_t to, unsigned flags) {
    if (sync_file_range(fd, from, to - from, flags) == 0)
        return 0;
    return errno == ENOSYS || errno == EINVAL || errno == EOPNOTSUPP || errno == ESPIPE ? 0
                                                                                        : -errno;
}

/* Begins to write what was copied, and waits for what is far behind. */
static int write_behind(struct run *r, off_t at) {
    if (at - r->flushed < CHUNK_BYTES)
        return 0;
    int rc = begin_and_await(r->to, r->flushed, at, SYNC_FILE_RANGE_WRITE);
    r->flushed = at;
    if (rc == 0 && at - r->waited > BEHIND_BYTES) {
        off_t until = at - BEHIND_BYTES;
        rc = begin_and_await(r->to, r->waited, until,
                             SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                                 SYNC_FILE_RANGE_WAIT_AFTER);
        r->waited = until;
    }
    return rc;
}

static int copy_segment(struct run *r, off_t from, off_t to) {
    while (from < to) {
        ssize_t k = copy_some(r, from, to - from < CHUNK_BYTES ? (size_t)(to - from) : CHUNK_BYTES);
        if (k <= 0)
            return k < 0 ? (int)k : -ESTALE; /* it ends before its size: truncated under way */
        from += k;
        r->done += (uint64_t)k;
        int rc = write_behind(r, from);
        if (rc == 0 && from < to)
            rc = ask(&r->watch, r->done, r->total);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* ---- holes and room ---- */

/* The next run of data from `at` on; where the file system does not tell, all that is left. False:
 * only a hole is left. */
static bool next_data(int fd, off_t at, off_t size, off_t *from, off_t *to) {
    off_t data = lseek(fd, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO)
        return false;
    off_t hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
    *from = hole < 0 ? at : data;
    *to = hole < 0 || hole > size ? size : hole;
    return *from < size;
}

/* Room for the data before the first byte is written. Preallocation would fill holes, so a file
 * that has any gets none; a file system that cannot simply goes on, and meets a full disk later. */
static int reserve(int to, const struct stat *st, bool dense) {
    struct statvfs vfs;
    uint64_t need = (uint64_t)st->st_blocks * 512;
    if (need > (uint64_t)st->st_size)
        need = (uint64_t)st->st_size;
    if (fstatvfs(to, &vfs) == 0 && vfs.f_blocks > 0 && (uint64_t)vfs.f_bavail * vfs.f_frsize < need)
        return -ENOSPC;
    if (dense && fallocate(to, 0, 0, st->st_size) < 0 &&
        (errno == ENOSPC || errno == EDQUOT || errno == EFBIG))
        return -errno;
    return 0;
}

static int copy_runs(struct run *r, off_t size) {
    off_t at = 0, from = 0, to = 0;
    while (at < size && next_data(r->from, at, size, &from, &to)) {
        int rc = copy_segment(r, from, to);
        if (rc == 0)
            rc = ask(&r->watch, r->done, r->total);
        if (rc < 0)
            return rc;
        at = to;
    }
    return at < size && ftruncate(r->to, size) < 0 ? -errno : 0; /* the hole at the end */
}

static int copy_large(struct run *r, const struct stat *st) {
    off_t from = 0, to = 0;
    if (ioctl(r->to, FICLONE, r->from) == 0)
        return 0;
    bool dense = next_data(r->from, 0, st->st_size, &from, &to) && from == 0 && to == st->st_size;
    int rc = reserve(r->to, st, dense);
    if (rc < 0)
        return rc;
    posix_fadvise(r->from, 0, 0, POSIX_FADV_SEQUENTIAL);
    return dense ? copy_segment(r, 0, st->st_size) : copy_runs(r, st->st_size);
}

int copy_data(int from, int to, const struct stat *st, struct copy_watch watch) {
    struct run r = {.from = from, .to = to, .watch = watch, .total = (uint64_t)st->st_size};
    if (st->st_size > SMALL_BYTES) {
        int rc = copy_large(&r, st);
        free(r.own);
        return rc;
    }
    char small[SMALL_BYTES];
    r.buffer = small;
    r.buffer_bytes = sizeof small;
    bool holes = (uint64_t)st->st_blocks * 512 < (uint64_t)st->st_size;
    return holes ? copy_runs(&r, st->st_size) : copy_segment(&r, 0, st->st_size);
}

/* ---- extended attributes ---- */

static bool begins(const char *name, const char *prefix) {
    return strncmp(name, prefix, strlen(prefix)) == 0;
}

/* What a person or a program put there. All else is how one file system or one policy sees the
 * file: its absence elsewhere loses nothing (security labels, btrfs properties, NFSv4's view of the
 * mode). */
static bool is_content(const char *name) {
    return begins(name, "user.") || begins(name, "trusted.") || begins(name, "system.posix_acl_") ||
           strcmp(name, "security.capability") == 0;
}

static int keep_xattr(int to, const char *name, const char *value, size_t n,
                      struct copy_xattr_policy policy) {
    if (fsetxattr(to, name, value, n, 0) == 0 || !is_content(name))
        return 0;
    /* E2BIG, ENOSPC: more than this file system keeps for one file. ERANGE: a longer value. */
    bool cannot = errno == ENOTSUP || errno == EPERM || errno == E2BIG || errno == ERANGE;
    if (cannot && policy.may_lose) {
        *policy.lost = true;
        return 0;
    }
    return cannot ? -EOPNOTSUPP : -errno;
}

static int copy_xattr(int from, int to, const char *name, struct copy_xattr_policy policy) {
    char small[LIST_BYTES];
    char *value = small, *big = NULL;
    ssize_t n = fgetxattr(from, name, small, sizeof small);
    if (n < 0 && errno == ERANGE) {
        value = big = malloc(XATTR_BYTES);
        n = big ? fgetxattr(from, name, big, XATTR_BYTES) : -1;
    }
    int rc = 0;
    if (n >= 0)
        rc = keep_xattr(to, name, value, (size_t)n, policy);
    else if (errno == ENODATA)
        rc = -ESTALE;
    else if (is_content(name))
        rc = -errno;
    free(big);
    return rc;
}

static int copy_list(int from, int to, const char *list, size_t n,
                     struct copy_xattr_policy policy) {
    bool acl = false;
    int rc = 0;
    for (const char *name = list; rc == 0 && name < list + n; name += strlen(name) + 1) {
        acl = acl || strcmp(name, "system.posix_acl_access") == 0;
        rc = copy_xattr(from, to, name, policy);
    }
    /* A directory's default ACL has been given to the new file: it is the directory's, not the
     * file's. */
    if (rc == 0 && !acl)
        (void)fremovexattr(to, "system.posix_acl_access");
    return rc;
}

int copy_xattrs(int from, int to, struct copy_xattr_policy policy) {
    char small[LIST_BYTES];
    ssize_t n = flistxattr(from, small, sizeof small);
    if (n >= 0 || errno == ENOTSUP || errno == ENOSYS)
        return copy_list(from, to, small, n < 0 ? 0 : (size_t)n, policy);
    if (errno != ERANGE)
        return -errno;
    char *big = malloc(XATTR_BYTES);
    n = big ? flistxattr(from, big, XATTR_BYTES) : -1;
    int rc = n < 0 ? -errno : copy_list(from, to, big, (size_t)n, policy);
    free(big);
    return rc;
}

/* ---- comparing ---- */

/* Where one of the two has data next: what is a hole in both is the same. */
static uint64_t skip_holes(int a, int b, uint64_t at, uint64_t size) {
    off_t x = lseek(a, (off_t)at, SEEK_DATA);
    bool end_x = x < 0 && errno == ENXIO;
    off_t y = lseek(b, (off_t)at, SEEK_DATA);
    bool end_y = y < 0 && errno == ENXIO;
    if ((x < 0 && !end_x) || (y < 0 && !end_y))
        return at;
    uint64_t next_x = end_x ? size : (uint64_t)x, next_y = end_y ? size : (uint64_t)y;
    uint64_t next = next_x < next_y ? next_x : next_y;
    return next >= size ? size : next - next % DIRECT_ALIGN;
}

/* 1: the same at `at`; *n is how much, 0 at the end of both. */
static int same_block(int a, int b, char *buffer, uint64_t at, size_t *n) {
    ssize_t x = read_full(a, buffer, BUFFER_BYTES, (off_t)at);
    ssize_t y = x < 0 ? 0 : read_full(b, buffer + BUFFER_BYTES, BUFFER_BYTES, (off_t)at);
    if (x < 0 || y < 0)
        return (int)(x < 0 ? x : y);
    *n = (size_t)x;
    return x == y && memcmp(buffer, buffer + BUFFER_BYTES, (size_t)x) == 0;
}

static int same_length(int fd, uint64_t size) {
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    return (uint64_t)st.st_size == size;
}

int copy_same(int a, int b, uint64_t size, struct copy_watch watch) {
    int same = same_length(a, size);
    if (same == 1)
        same = same_length(b, size);
    if (same != 1 || size == 0)
        return same;
    char *buffer = aligned_alloc(DIRECT_ALIGN, 2 * BUFFER_BYTES);
    if (!buffer)
        return -ENOMEM;
    for (uint64_t at = 0; same == 1 && at < size;) {
        size_t n = 0;
        if (size > SMALL_BYTES && (at = skip_holes(a, b, at, size)) >= size)
            break;
        same = same_block(a, b, buffer, at, &n);
        if (same == 1 && n == 0)
            same = 0; /* both were cut off meanwhile */
        at += n;
        int rc = same == 1 ? ask(&watch, at, size) : 0;
        same = rc < 0 ? rc : same;
    }
    free(buffer);
    return same;
}

int copy_same_on_device(int from, int copy, uint64_t size, struct copy_watch watch) {
    char proc[40];
    snprintf(proc, sizeof proc, "/proc/self/fd/%d", copy);
    int direct = open(proc, O_RDONLY | O_DIRECT | O_CLOEXEC);
    int same = direct < 0 ? -EINVAL : copy_same(from, direct, size, watch);
    if (direct >= 0)
        close(direct);
    if (same != -EINVAL)
        return same;
    posix_fadvise(copy, 0, 0, POSIX_FADV_DONTNEED); /* the next best: clean pages go */
    return copy_same(from, copy, size, watch);
}
