/*
 * level: the marker file by which a level's directory is known to be the one it was. A mount that
 * is missing leaves an empty directory of the same name behind: without the marker it would look
 * like an empty level, and content would be moved onto the disk below it.
 *
 * `.tierd-level` holds two lines, `id=<32 hexadecimal digits>` and `level=<name>`. The id is drawn
 * when the marker is written and remembered outside (job/queue), so that neither another level's
 * directory nor a fresh one passes for it.
 */
#ifndef TIERD_FS_LEVEL_H
#define TIERD_FS_LEVEL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/sys.h"

enum {
    LEVEL_ID_BYTES = 33,     /* 128 bits in hexadecimal, and a NUL */
    LEVEL_NAME_BYTES = 1024, /* more than any column of level names */
};

enum level_check {
    LEVEL_RIGHT,    /* the marker is there and is this level's */
    LEVEL_UNMARKED, /* there is no marker, and none was ever seen: nothing to go by */
    LEVEL_LOST,     /* there is no marker, but there was one: the mount is missing */
    LEVEL_OTHER,    /* it is the marker of another level, or of another directory of that name */
    LEVEL_UNREADABLE,
};

/* One sentence for a person. */
const char *level_check_text(enum level_check check);

/*
 * Looks at the marker in directory `dir`. `known_id` is the id that was seen before, or "". With
 * LEVEL_RIGHT the marker's id is in `id`.
 */
enum level_check level_check(int dir, const char *name, const char *known_id,
                             char id[LEVEL_ID_BYTES]);

/* Where levels lie, and what is asked of them: the same for a worker and the commands. */
struct level_terms {
    const char *const *roots; /* borrowed */
    size_t n_roots;
    bool need_markers;
};

/* A level's directory, opened and looked at. */
struct level_dir {
    int fd;                       /* the caller's to close; -1: it is not to be used */
    enum level_check mark;        /* with fd >= 0, and with -ESTALE */
    char id[LEVEL_ID_BYTES];      /* with LEVEL_RIGHT */
    struct sys_identity identity; /* with fd >= 0 */
};

/*
 * Opens the directory of the level `name` at `path`, and looks whether it is that level's:
 * `known_id` as of level_check. 0, or -errno as of path_open_level; -ESTALE: it is not the level's,
 * `mark` says why, or it has no marker and terms ask for one.
 */
int level_open(const char *name, const char *path, const char *known_id,
               const struct level_terms *terms, struct level_dir *out);

/*
 * Whether nothing stands in directory `dir` but what tierd leaves there for a moment, as below a
 * mount that is missing; a marker is something. Where nobody can say: it is not.
 */
bool level_is_bare(int dir);

/*
 * Writes a marker for the level `name` into `dir`, durably, and gives its id. 0; -EEXIST: there is
 * a marker already; -EINVAL: the name cannot stand in a line; else -errno.
 */
int level_mark(int dir, const char *name, char id[LEVEL_ID_BYTES]);

#endif
