/*
 * ladder: the levels of the catalogue in the order of their thresholds, and the one rule that
 * decides where a content belongs. Pure: rows in, answers out.
 *
 * ladder_init -> ladder_add for each row of `level` -> ladder_target / ladder_find ->
 * ladder_release. The ladder owns copies of names and paths; what it returns is valid until the
 * next add or release.
 */
#ifndef TIERD_JOB_LADDER_H
#define TIERD_JOB_LADDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/config.h"
#include "base/str.h"

/* A catalogue with more levels than this is a mistake, not a ladder. */
enum { LADDER_MAX_LEVELS = 256 };

struct level {
    char *name;
    char *path;
    uint64_t min_count;
};

struct ladder {
    struct level *levels; /* ascending min_count */
    size_t len;
};

void ladder_init(struct ladder *l);
void ladder_release(struct ladder *l);

/* Adds a copy of a level. 0, -ENOMEM, -EINVAL (an empty name or path, or a NUL in one),
 * -EEXIST (that name or that min_count stands already), -ENOBUFS past LADDER_MAX_LEVELS. */
int ladder_add(struct ladder *l, struct str_view name, struct str_view path, uint64_t min_count);

/* The level with the greatest min_count <= count; the lowest one serves as floor (CONTRACT.md 5).
 * NULL when there are no levels. */
const struct level *ladder_target(const struct ladder *l, uint64_t count);

/* The level of that name (compared byte for byte), or NULL. */
const struct level *ladder_find(const struct ladder *l, struct str_view name);

/* Appends the names, the highest level first: "gold, silver, bronze", or "none". */
void ladder_add_names(const struct ladder *l, struct buf *out);

/* Whether both hold the same levels: names, paths and thresholds. */
bool ladder_same(const struct ladder *a, const struct ladder *b);

/* Says (one sentence each) which levels' paths are one or lie within each other, by their text. */
void ladder_check_paths(const struct ladder *l, void (*say)(const char *why));

/* Says (one sentence each) which levels `max-use` and `levels` name that there are not: a name with
 * a slip in it would hold for nothing, silently. */
void ladder_check_names(const struct ladder *l, const struct config *cfg,
                        void (*say)(const char *why));

#endif
