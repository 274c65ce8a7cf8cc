#include "base/overlap.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

enum { PATH_SHOWN = 160, NAME_SHOWN = 64 }; /* two of each fit into the reason of a job */

static const char *past_slashes(const char *p) {
    return p + strspn(p, "/");
}

enum overlap overlap_of_paths(const char *a, const char *b) {
    if ((*a == '/') != (*b == '/'))
        return OVERLAP_NONE; /* one of them is of another host */
    for (;;) {
        a = past_slashes(a);
        b = past_slashes(b);
        if (!*b)
            return *a ? OVERLAP_WITHIN : OVERLAP_SAME;
        size_t n = strcspn(b, "/");
        if (strcspn(a, "/") != n || memcmp(a, b, n) != 0)
            return OVERLAP_NONE;
        a += n;
        b += n;
    }
}

bool overlap_nests(enum overlap is) {
    return is == OVERLAP_WITHIN || is == OVERLAP_SHOWS_WITHIN;
}

void overlap_text(char *out, size_t cap, enum overlap is, const char *a, const char *a_path,
                  const char *b, const char *b_path) {
    static const char *const words[][3] = {
        [OVERLAP_SAME] = {"show the same files: ", " and ", " are one directory"},
        [OVERLAP_SHOWS] = {"show the same files: what is put into ", " appears in ", ""},
        [OVERLAP_WITHIN] = {"overlap: ", " lies within ", ""},
        [OVERLAP_SHOWS_WITHIN] = {"overlap: what is put into ", " appears below ", ""},
    };
    assert(is != OVERLAP_NONE);
    snprintf(out, cap, "the levels %.*s and %.*s %s%.*s%s%.*s%s", NAME_SHOWN, a, NAME_SHOWN, b,
             words[is][0], PATH_SHOWN, a_path, words[is][1], PATH_SHOWN, b_path, words[is][2]);
}
