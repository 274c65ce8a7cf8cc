/*
 * path: directories, walked a component at a time with O_NOFOLLOW from a descriptor. Names were
 * checked to hold no '..' (base/name), so nothing outside a level is ever reached, on every kernel.
 *
 * path_open_level -> path_open_parent -> path_close, descriptors are the caller's; or
 * path_open_level -> path_dir ... -> path_dirs_close, descriptors are the set's.
 */
#ifndef TIERD_FS_PATH_H
#define TIERD_FS_PATH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "fs/meta.h"

enum { PATH_DIRS_MAX = 128, PATH_DURABLE_MAX = 32 };

/* Opens the directory of a level: `path` must lie under one of `roots` (absolute paths).
 * A descriptor, or -EXDEV (under none of them), -EINVAL (not absolute, or has '.', '..'), -errno.
 */
int path_open_level(const char *path, const char *const *roots, size_t n_roots);

/* Looks at a directory by its path, and how full it is, in a process of its own, which may wait for
 * ever for a file system that hangs. 0; -ENOTDIR, another -errno; or -ETIMEDOUT after `wait_ms`. */
int path_look(const char *path, int64_t wait_ms);

/* Opens the directory that holds the last component of `name` below `level`. A descriptor, or -1
 * with errno. */
int path_open_parent(int level, const char *name);

/*
 * Directories that stay open for the files of a few moments, so that several which go into one
 * share its opening, and the sync that makes its own name durable. In one set the same directory
 * has the same descriptor. For moments only: what is renamed or made anew meanwhile is not seen.
 */
struct path_dirs {
    struct {
        dev_t level_dev;
        ino_t level_ino;
        const char *name; /* borrowed */
        size_t len;       /* of its part that names the directory */
        bool made;        /* opened with `make` */
        int fd;
        dev_t dev;
        ino_t ino;
        bool local; /* see path_is_local */
    } open[PATH_DIRS_MAX];
    size_t n;
    struct {
        dev_t dev;
        ino_t ino;
    } durable[PATH_DURABLE_MAX];
    size_t n_durable;
    enum move_rc meta_rc; /* of the last path_dir that failed, unless MOVE_OK: a directory could not
                             be made as its model is, see `meta` */
    struct meta meta;
};

/*
 * As path_open_parent, but the descriptor is the set's, until path_dirs_close; `name` must live as
 * long. With `model`, another level, or -1, missing directories are made as those of the same names
 * are there (fs/meta), and they are durable when this returns; path_prune lets the directory be
 * while the set is open. -1 with errno, ENFILE after PATH_DIRS_MAX different ones.
 */
int path_dir(struct path_dirs *dirs, int level, const char *name, int model);

/*
 * Takes away `dir`, which holds the last component of `name` below a level, and those above it, as
 * far as they are empty and below the level. One that somebody has by path_dir with a model, on
 * this host, is about to get something, and stays.
 */
void path_prune(int dir, const char *name);

/* Whether `fd` of the set is on a file system of this kernel's own (ext4, XFS, Btrfs, tmpfs ...):
 * what it says of names, times and writers is so. Elsewhere, in user space, on the net, in layers,
 * it may be what is remembered of them. */
bool path_is_local(const struct path_dirs *dirs, int fd);

/* Closes all, and empties the set. A set of zeros is empty. */
void path_dirs_close(struct path_dirs *dirs);

/* The last component, within `name`. */
const char *path_leaf(const char *name);

/* Closes *fd when it is open, and makes it -1. */
void path_close(int *fd);

#endif
