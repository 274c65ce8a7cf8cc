/*
 * alias: whether two directories show the same files. A pool and one of its branches, two mounts of
 * one export, a bind in user space, an overlay and what lies under it: there device and inode
 * numbers differ, or agree by chance, and what was looked up a moment ago is remembered by the
 * kernel. So nothing is concluded from numbers: something is made under a name that nobody can have
 * asked for before, and looked for on the other side.
 */
#ifndef TIERD_FS_ALIAS_H
#define TIERD_FS_ALIAS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/name.h"

/* A probe's name begins so; one that a killed process left is empty, or a further name of a copy
 * that has another one: nobody's content. */
#define ALIAS_PROBE_PREFIX NAME_PRIVATE_PREFIX "-probe."

enum { ALIAS_PROBE_BYTES = 40 };

/* Something under a name that was never used, locked (flock(2)) while it stands. */
struct alias_probe {
    int dir; /* borrowed */
    int fd;
    char name[ALIAS_PROBE_BYTES];
};

/* Makes a further link to `leaf` in `dir`, which is to stay open until alias_probe_remove; an empty
 * file where `leaf` is NULL, or cannot be linked. A link finds room where a level is full, and lies
 * where the file lies: a pool may put what is new into another of its branches. The file's change
 * time is another one then. 0, or -errno and there is none to remove. */
int alias_probe_make(struct alias_probe *p, int dir, const char *leaf);

/* Whether `other` shows the probe: 1, 0, or -errno when nobody can say; -EAGAIN: it was taken for
 * one that was left, and is gone. */
int alias_probe_seen(const struct alias_probe *p, int other);

void alias_probe_remove(struct alias_probe *p);

/* Removes from `dir` the probes that killed processes left: whoever made one and lives holds its
 * lock. Lists the directory: for when somebody died of something that was done there. */
void alias_sweep(int dir);

/*
 * Whether what is made in `dir` appears in `other`: 1, 0, or -errno when that cannot be tried.
 * `leaf` as of alias_probe_make. One way only: probe from the side of which something is to be
 * deleted.
 */
int alias_shows(int dir, int other, const char *leaf);

/* Pairs of directories (descriptors) that were found apart a moment ago: of one round of
 * retirements, for as long as both stay open. A set of zeros is empty. */
enum { ALIAS_SET_MAX = 64 };
struct alias_set {
    struct {
        int dir, other;
    } apart[ALIAS_SET_MAX];
    size_t n;
};

/* alias_shows, once for each pair in the set. */
int alias_shows_once(struct alias_set *set, int dir, int other, const char *leaf);

#endif
