#include "fs/overlaps.h"

#include <errno.h>
#include <unistd.h>

#include "base/log.h"
#include "fs/path.h"
#include "ops/ops.h"

enum {
    TEXT_BYTES = 1024,
    HANGS_MS = 5000, /* as for workers: a file system that takes longer is taken for hung */
};

void ops_look_at_levels(struct ops *o) {
    for (size_t i = 0; i < o->ladder.len; i++)
        o->hangs[i] = path_look(o->ladder.levels[i].path, HANGS_MS) == -ETIMEDOUT;
}

void ops_overlaps(const struct ops *o, struct overlaps *found) {
    struct overlaps_level levels[LADDER_MAX_LEVELS] = {{0}};
    size_t n = o->ladder.len;
    for (size_t i = 0; i < n; i++) {
        const struct level *l = &o->ladder.levels[i];
        int dir = o->hangs[i] ? -ETIMEDOUT
                              : path_open_level(l->path, (const char *const *)o->cfg->roots,
                                                (size_t)o->cfg->n_roots);
        levels[i] = (struct overlaps_level){l->name, l->path, dir < 0 ? -1 : dir};
    }
    overlaps_judge(found, levels, n);
    for (size_t i = 0; i < n; i++)
        path_close(&levels[i].dir);
}

bool ops_say_overlap(const struct ops *o, const struct overlaps *found, size_t a, size_t b) {
    char text[TEXT_BYTES];
    if (a == b)
        return false;
    enum overlap is = overlaps_between(found, &a, &b);
    if (is == OVERLAP_NONE)
        return false;
    const struct level *x = &o->ladder.levels[a], *y = &o->ladder.levels[b];
    overlap_text(text, sizeof text, is, x->name, x->path, y->name, y->path);
    log_refusal("%s", text);
    return true;
}
