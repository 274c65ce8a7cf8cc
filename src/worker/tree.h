/*
 * tree: the directories of a level and the files in them, reached without ever leaving the level, following
 * a link, or opening anything but directories and regular files. Knows no jobs and no moves.
 *
 *   tree_open_level    the directory of a level, beneath one of the roots
 *   tree_parent        the directory in it that holds a name's last component
 *   tree_make_parent   the same, made and durable
 *   tree_open_file     the file itself
 *
 * Names were checked by name_check: no '..', no absolute path. Descriptors returned are the caller's to
 * close. Fallible functions return 0 or a descriptor, else -errno; -ELOOP stands for "a symbolic link, or
 * not a regular file".
 */
#ifndef TIERD_WORKER_TREE_H
#define TIERD_WORKER_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

/* Opens the directory of a level: `path` must lie under one of `roots` (absolute paths; what links they
 * hold is the operator's choice, below them none is followed).
 * A descriptor, or -EXDEV (under none of them), -EINVAL (not absolute, or has '.', '..'), -errno. */
int tree_open_level(const char *path, const char *const *roots, size_t n_roots);

/* Opens the directory below `level` that holds the last component of `name`. */
int tree_parent(int level, const char *name);

/* As tree_parent in `level`, but makes the directories that are missing, with owner and mode of those
 * that hold `name` in `like_level`, and makes them durable: each directory that was made now, or lately by
 * anybody, has its entry's directory fsynced. The directory returned itself is the caller's to fsync. */
int tree_make_parent(int level, const char *name, int like_level);

/* The last component, within `name`. */
const char *tree_leaf(const char *name);

/* Opens a regular file for reading and tells what it is. */
int tree_open_file(int dir, const char *leaf, int *fd, struct stat *st);

/* Takes the exclusive flock(2) of an open file without waiting. 1: it is ours until the descriptor is
 * closed; 0: this file system has no locks; -EBUSY: somebody else holds it. */
int tree_lock(int fd);

/* Whether somebody has the file open for writing; where nobody can tell: false. Owner or CAP_LEASE can, by
 * a read lease that is given back at once. A writer that comes in between raises SIGIO, to be ignored. */
bool tree_has_writer(int fd);

bool tree_same_inode(const struct stat *a, const struct stat *b);

/* The same inode, size and modification time. */
bool tree_same_content(const struct stat *a, const struct stat *b);

/* And the same change time: nothing at all was done to it. */
bool tree_unchanged(const struct stat *a, const struct stat *b);

/* Whether `leaf` in `dir` is this very inode. */
bool tree_names(int dir, const char *leaf, const struct stat *st);

/* Renames within `dir`, never replacing: -EEXIST. Where the file system cannot, by a second name and the
 * removal of the first; -EOPNOTSUPP where it cannot do that either. */
int tree_rename(int dir, const char *from, const char *to);

#endif
