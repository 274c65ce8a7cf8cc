/*
 * path: directories, walked a component at a time with O_NOFOLLOW from a descriptor. Names were
 * checked to hold no '..' (base/name), so nothing outside a level is ever reached, on every kernel.
 *
 * path_open_level -> path_open_parent -> path_close. Descriptors are the caller's.
 */
#ifndef TIERD_FS_PATH_H
#define TIERD_FS_PATH_H

#include <stdbool.h>
#include <stddef.h>

/* Opens the directory of a level: `path` must lie under one of `roots` (absolute paths).
 * A descriptor, or -EXDEV (under none of them), -EINVAL (not absolute, or has '.', '..'), -errno.
 */
int path_open_level(const char *path, const char *const *roots, size_t n_roots);

/* Opens the directory that holds the last component of `name` below `level`. With `create`, missing
 * directories are made, with owner and mode of the level's own, and their names are durable when
 * this returns. A descriptor, or -1 with errno. */
int path_open_parent(int level, const char *name, bool create);

/* The last component, within `name`. */
const char *path_leaf(const char *name);

/* Closes *fd when it is open, and makes it -1. */
void path_close(int *fd);

#endif
