/*
 * overlaps: which of the levels' directories are not apart from each other: one directory under
 * two paths, a pool and its branches, a bind, an overlay and what lies under it, one within
 * another. Numbers of devices and inodes tell some of it, the table of mounts some more; the rest
 * is what is seen: a probe (fs/alias) that is made in one level and appears in another.
 *
 * overlaps_judge -> overlaps_between, overlaps_nested. What was judged holds for as
 * long as nobody mounts anything: ask again now and then.
 */
#ifndef TIERD_FS_OVERLAPS_H
#define TIERD_FS_OVERLAPS_H

#include "base/overlap.h"

enum { OVERLAPS_MAX = 256 }; /* levels */

/* A level to be judged; all is borrowed. */
struct overlaps_level {
    const char *name, *path;
    int dir; /* -1: it could not be opened, and only its path is looked at */
};

struct overlaps {
    unsigned char kind[OVERLAPS_MAX][OVERLAPS_MAX]; /* enum overlap, of the first as seen from the
                                                     * second */
    bool probed[OVERLAPS_MAX];                      /* a probe could be made there */
};

/* Judges all pairs, both ways. In each directory that can be written to a probe is made for a
 * moment. A pair of which nothing can be told counts as apart. */
void overlaps_judge(struct overlaps *o, const struct overlaps_level *levels, size_t n);

/* How two of the levels lie to each other, whichever way; with one of them swapped in *a and *b so
 * that overlap_text names them in the right order. Nesting counts more than the rest. */
enum overlap overlaps_between(const struct overlaps *o, size_t *a, size_t *b);

/* Whether level `i` of `n` lies within another or around it; *with is that other. */
bool overlaps_nested(const struct overlaps *o, size_t n, size_t i, size_t *with);

#endif
