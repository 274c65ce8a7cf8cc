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
#include <sys/types.h>

enum { PATH_MEMO_MAX = 32 };

/* Opens the directory of a level: `path` must lie under one of `roots` (absolute paths).
 * A descriptor, or -EXDEV (under none of them), -EINVAL (not absolute, or has '.', '..'), -errno.
 */
int path_open_level(const char *path, const char *const *roots, size_t n_roots);

/* Directories whose own names are known to be durable, so that several files that go into one share
 * that sync. It is for moments: a directory that is removed and made anew would pass for known. */
struct path_memo {
    struct {
        dev_t dev;
        ino_t ino;
    } durable[PATH_MEMO_MAX];
    size_t n;
};

/* Opens the directory that holds the last component of `name` below `level`. With `memo` (NULL:
 * not) missing directories are made, with owner and mode of the level's own, and their names are
 * durable when this returns. A descriptor, or -1 with errno. */
int path_open_parent(int level, const char *name, struct path_memo *memo);

/* The last component, within `name`. */
const char *path_leaf(const char *name);

/* Closes *fd when it is open, and makes it -1. */
void path_close(int *fd);

#endif
