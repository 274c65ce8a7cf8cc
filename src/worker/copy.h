/*
 * copy: what is in a file, its data and what belongs to it, from one open descriptor to another.
 * Knows no names. Memory is bounded: half a MiB for a copy, one MiB for a comparison, whatever the
 * size.
 *
 * Return 0 or -errno; -ECANCELED: the tick said so; -ESTALE: the source is no longer what it was.
 */
#ifndef TIERD_WORKER_COPY_H
#define TIERD_WORKER_COPY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

/* Called between chunks of at most 8 MiB; 0 to go on, else the work is abandoned. */
typedef int copy_tick_fn(void *ctx, uint64_t done_bytes, uint64_t total_bytes);

/* Who is asked, and how much is done. */
struct copy_watch {
    copy_tick_fn *tick; /* may be NULL */
    void *ctx;
};

/*
 * Copies the data of `from`, which looks like `st`, into the empty file `to`: by sharing its blocks
 * (FICLONE), else in the kernel (copy_file_range), else through a buffer. Holes stay holes. Room is
 * reserved before the first byte: -ENOSPC early. Nothing is durable yet, but little is left to
 * write.
 */
int copy_data(int from, int to, const struct stat *st, struct copy_watch watch);

struct copy_xattr_policy {
    bool may_lose; /* go on when the destination cannot keep one */
    bool *lost;    /* set when one was lost */
};

/* Gives `to` the extended attributes and ACLs of `from`, no others. What the destination's own
 * policy sets (security labels, file system properties) may differ. -EOPNOTSUPP: one cannot be kept
 * there. */
int copy_xattrs(int from, int to, struct copy_xattr_policy policy);

/* 1: byte for byte the same and `size` long; 0: not. */
int copy_same(int a, int b, uint64_t size, struct copy_watch watch);

/* As copy_same, but reads `copy` from the device where the file system lets us: after fsync(2). */
int copy_same_on_device(int from, int copy, uint64_t size, struct copy_watch watch);

#endif
