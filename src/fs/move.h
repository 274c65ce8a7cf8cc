/*
 * move: puts a file into another directory so that at every instruction a whole, durable copy
 * stands somewhere, nothing is overwritten, and nothing half-written is ever visible (PROTOCOL.md,
 * One move). Knows directories and files; no Redis, no SQL.
 *
 *   move_begin      opens and locks the source
 *   move_stage      makes a copy without a name (or decides to link), and begins to write it out
 *   move_drain      waits until its data is written out
 *   move_flush      makes it durable
 *   -- the caller fences: still our job? --
 *   move_publish    gives it its name, without replacing anything
 *   move_sync       makes the names durable
 *   move_recheck    is the source still what was copied?
 *   -- the caller commits --
 *   retire_begin    (fs/retire) takes the source away
 *   move_release    closes everything; safe at any point
 *
 * Several moves may go through each step together: what was staged is written out while the next is
 * staged, the first flush commits the file system's journal for all, and move_sync syncs a
 * directory once for all that was published in it.
 *
 * Locks (flock(2)) on the source's and on the published inode are held until move_release, so on
 * one host nobody can move the file on, or back, under a stalled worker.
 */
#ifndef TIERD_FS_MOVE_H
#define TIERD_FS_MOVE_H

#include "fs/file.h"
#include "fs/meta.h"
#include "fs/path.h"

struct move {
    uint64_t cid;
    const char *name;     /* borrowed, below the level */
    const char *leaf;     /* the last component, within name */
    int src_dir, dst_dir; /* borrowed of a set */
    int src_fd, dst_fd;
    struct stat src;                 /* as it was when opened */
    struct stat dst;                 /* of what was published or adopted */
    bool same_device;                /* a link may do */
    bool link_refused;               /* copy though the device is the same */
    bool linked;                     /* published by a second name */
    bool adopted;                    /* an identical file stood at the destination, durable now */
    bool verify;                     /* set by the caller: read the copy back and compare */
    uint64_t chunk_bytes;            /* set by the caller: copied between two ticks; 0: 8 MiB */
    bool force_temp_name;            /* set by tests: as on a file system without O_TMPFILE */
    char temp_name[FILE_TEMP_BYTES]; /* "" with O_TMPFILE */
    struct meta meta;                /* of the copy, or of what was adopted */
    uint64_t need_bytes, free_bytes; /* of MOVE_NOSPACE: what is needed, and what there is */
    bool no_inodes;                  /* no more files can be made there */
    bool full;                       /* nothing else would fit either */
    int error;                       /* errno of MOVE_IO, MOVE_DENIED, MOVE_NOSPACE, MOVE_UNKEPT */
    const char *step;                /* what failed, for the log */
};

/* Removes what a process that died of this move may have left in the directories of both ends, but
 * no content's name: after move_begin. */
void move_sweep(struct move *m);

/* Opens `name` below `src_level`, which must be a regular file, and locks it; makes the directories
 * for it below `dst_level`, as those below `src_level` are. The directories are opened in `dirs`,
 * which is to stay until move_release; the descriptors of the levels stay the caller's. */
enum move_rc move_begin(struct move *m, uint64_t cid, int src_level, int dst_level,
                        const char *name, struct path_dirs *dirs);

/* Makes the copy, with its owner, mode, times and extended attributes, but without a name. */
enum move_rc move_stage(struct move *m, move_tick_fn *tick, void *ctx);

/* Waits for the data of a staged copy, in pieces with ticks between them: so that the fsync that
 * follows, in which nobody can renew a lease, is short. */
enum move_rc move_drain(struct move *m, move_tick_fn *tick, void *ctx);

/* Makes the staged copy durable, and checks that the source is still what was copied. With
 * `verify`, or when a copy with holes takes less room than its source, it is read back from the
 * device and compared, with ticks. */
enum move_rc move_flush(struct move *m, move_tick_fn *tick, void *ctx);

/* Gives the copy its name; durable once move_sync said so. MOVE_RESTAGE: a link was refused, stage
 * it again. A file that has the name by now is compared with the source, with ticks. */
enum move_rc move_publish(struct move *m, move_tick_fn *tick, void *ctx);

/* At most so many together. */
enum { MOVE_TOGETHER_MAX = PATH_DIRS_MAX / 2 };

/* Makes the names of `n` published moves durable; `rc` has the outcome of each. `between` as of
 * file_sync_dirs. */
void move_sync(struct move *const *moves, size_t n, enum move_rc *rc, file_between_fn *between,
               void *ctx);

/* Whether source and copy still are what they were when one was made of the other, and nobody has
 * the source open for writing: right before the commit. MOVE_OK, MOVE_CHANGED, MOVE_MISSING (the
 * source has no name any more), MOVE_BUSY or an error. */
enum move_rc move_recheck(struct move *m);

void move_release(struct move *m);

#endif
