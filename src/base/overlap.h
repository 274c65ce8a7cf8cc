/*
 * overlap: how the directories of two levels lie to each other when they are not apart, and the
 * sentences for it. Two levels that overlap name a file twice: what is moved or taken away at one
 * of them goes at the other, too. Pure: what can be told from paths alone; fs/overlaps looks at
 * the directories themselves.
 */
#ifndef TIERD_BASE_OVERLAP_H
#define TIERD_BASE_OVERLAP_H

#include <stdbool.h>
#include <stddef.h>

/* Of a level a, as seen from a level b. */
enum overlap {
    OVERLAP_NONE,
    OVERLAP_SAME,         /* they are one directory */
    OVERLAP_SHOWS,        /* what is put into a appears in b under the same name */
    OVERLAP_WITHIN,       /* a lies within b */
    OVERLAP_SHOWS_WITHIN, /* what is put into a appears in a directory below b */
};

/* By the text of two paths, empty components aside. Never one that shows. */
enum overlap overlap_of_paths(const char *a, const char *b);

/* Under another name the same file may belong to another content: such levels are not used at all.
 * Where the names agree (the others), only moves and retirements between the two are refused. */
bool overlap_nests(enum overlap is);

/* One sentence that names both levels and what was seen. */
void overlap_text(char *out, size_t cap, enum overlap is, const char *a, const char *a_path,
                  const char *b, const char *b_path);

#endif
