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

/* A name that was never used. 0, or -errno when the kernel has no random numbers (getrandom(2)). */
int alias_probe_name(char out[ALIAS_PROBE_BYTES]);

/* Makes an empty file of that name in `dir`; where it is full, a further link to `leaf` there (may
 * be NULL). 0 or -errno. */
int alias_probe_make(int dir, const char *probe, const char *leaf);

/* 1: `dir` shows the name, 0: it does not, or -errno when nobody can say. */
int alias_probe_seen(int dir, const char *probe);

/* Takes the probe away. */
void alias_probe_remove(int dir, const char *probe);

/*
 * Whether what is made in `dir` appears in `other`: 1, 0, or -errno when it cannot be tried.
 * `leaf` (may be NULL) is a file in `dir` that is linked instead where an empty one finds no room.
 *
 * One way only. What is put into a pool may go to another branch than the one that is looked at,
 * but what is put into a branch appears in every pool above it: probe from the side of which
 * something is to be deleted.
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
