/*
 * move: puts a file into another directory so that at every instruction a whole, durable copy
 * stands somewhere, nothing is overwritten, and nothing half-written is ever visible (PROTOCOL.md,
 * One move). Knows directories and files; no Redis, no SQL.
 *
 *   move_begin      opens and locks the source
 *   move_stage      makes a durable copy without a name (or decides to link)
 *   -- the caller fences: still our job? --
 *   move_publish    gives it its name, without replacing anything
 *   -- the caller commits --
 *   move_retire     deletes the spare copy: the only code that deletes content
 *   move_release    closes everything; safe at any point
 *
 * Locks (flock(2)) on the source's and on the published inode are held until move_release, so on
 * one host nobody can move the file on, or back, under a stalled worker.
 *
 * Directories are walked component by component with O_NOFOLLOW: names were checked to hold no
 * '..', so nothing outside the level is reached, on every kernel.
 */
#ifndef TIERD_WORKER_MOVE_H
#define TIERD_WORKER_MOVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/name.h"

enum move_rc {
    MOVE_OK,
    MOVE_MISSING,     /* the file is not there */
    MOVE_NOT_REGULAR, /* a directory, FIFO, device, socket or symbolic link */
    MOVE_CONFLICT,    /* another file has the name at the destination */
    MOVE_HARDLINKS,   /* the file has further names */
    MOVE_BUSY,        /* locked, or open for writing */
    MOVE_CHANGED,     /* it changed while it was copied */
    MOVE_NOSPACE,     /* the destination is full, or a quota is */
    MOVE_DENIED,      /* not allowed: owner, mode, read-only, immutable */
    MOVE_UNSUPPORTED, /* the file system can publish nothing without replacing */
    MOVE_RESTAGE,     /* a link was refused: stage again, it will copy */
    MOVE_ALIAS,       /* both levels are the same directory */
    MOVE_ABANDONED,   /* the caller's tick said so */
    MOVE_IO,          /* any other error, see `error` */
};

/* One sentence for a person. */
const char *move_rc_text(enum move_rc rc);

/* Called between chunks; 0 to go on, else the move is abandoned. */
typedef int move_tick_fn(void *ctx, uint64_t done_bytes, uint64_t total_bytes);

struct move {
    uint64_t cid;
    const char *name; /* borrowed, below the level */
    const char *leaf; /* the last component, within name */
    int src_dir, dst_dir, src_fd, dst_fd;
    struct stat src;      /* as it was when opened */
    struct stat dst;      /* of what was published or adopted */
    bool link_refused;    /* copy though the device is the same */
    bool linked;          /* published by a second name */
    bool adopted;         /* an identical file stood at the destination */
    bool verify;          /* set by the caller: read the copy back and compare */
    bool force_temp_name; /* set by tests: as on a file system without O_TMPFILE */
    char temp_name[40];   /* "" with O_TMPFILE */
    int error;            /* errno of MOVE_IO, MOVE_DENIED, MOVE_NOSPACE */
    const char *step;     /* what failed, for the log */
};

/* Opens the directory of a level: `path` must lie under one of `roots` (absolute paths).
 * A descriptor, or -EXDEV (under none of them), -EINVAL (not absolute, or has '.', '..'), -errno.
 */
int move_open_level(const char *path, const char *const *roots, size_t n_roots);

/* Opens `name` below `src_level`, which must be a regular file, and locks it. The descriptors of
 * the levels stay the caller's. */
enum move_rc move_begin(struct move *m, uint64_t cid, int src_level, int dst_level,
                        const char *name);

/* Makes the copy durable, with its owner, mode, times and extended attributes, but without a name.
 */
enum move_rc move_stage(struct move *m, move_tick_fn *tick, void *ctx);

/* Gives the staged copy its name and makes the name durable. */
enum move_rc move_publish(struct move *m);

void move_release(struct move *m);

/* What move_retire works on. */
struct retire {
    uint64_t cid;
    const char *name;
    int spare_level;   /* where the copy stands that is to go */
    int auth_level;    /* where the database says that the content is */
    struct move *move; /* the finished move of this process, or NULL: then bytes are compared */
    int (*confirm)(void *ctx); /* asks the database: 1 still so, 0 no, < 0 cannot say */
    void *ctx;
};

/*
 * Deletes the spare copy, after it was renamed to `.tierd-old.<cid>` beside it and everything was
 * checked: the database says elsewhere, the authoritative copy stands there, whole, and what was
 * renamed is what was copied. Otherwise puts it back. A private name that an earlier, killed
 * attempt left is judged by the same checks. MOVE_OK: nothing stands there any more. MOVE_CHANGED,
 * MOVE_NOT_REGULAR, MOVE_CONFLICT, MOVE_ALIAS: what stands there is not ours to delete, it was
 * left. Others: try again later.
 */
enum move_rc move_retire(const struct retire *r, int *error);

#endif
