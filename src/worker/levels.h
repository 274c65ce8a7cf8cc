/*
 * levels: the levels' directories as a worker reaches them: the table `level`, the ids of their
 * markers, and the directories that a group of jobs has open.
 *
 * levels_init -> levels_read -> levels_dir ... levels_close -> levels_release
 */
#ifndef TIERD_WORKER_LEVELS_H
#define TIERD_WORKER_LEVELS_H

#include "base/buf.h"
#include "fs/level.h"
#include "job/ladder.h"
#include "worker/child.h"

enum { LEVELS_USE_BYTES = LADDER_MAX_LEVELS * (JOB_LEVEL_BYTES + 48) };

struct levels {
    struct child *w;
    struct ladder ladder;
    int64_t read_ms; /* clock_mono_ms of the last reading, 0: never */
    struct {
        int dir;                 /* -1: not open */
        char id[LEVEL_ID_BYTES]; /* "": no marker was ever seen */
        bool warned;             /* that it has none */
    } at[LADDER_MAX_LEVELS];
    enum level_check state; /* of the level that levels_dir refused with -ESTALE */
};

void levels_init(struct levels *l, struct child *w);
void levels_release(struct levels *l);

/* Reads the table and the ids, unless that was done in the last seconds; when it does, it closes
 * all directories. 0 or -errno. */
int levels_read(struct levels *l, bool fresh);

/* The descriptor of a level's directory. It stays ours, and is opened, and looked at, once until
 * levels_close or levels_read; this itself reads the table when it does not know the level.
 * -ENOKEY: there is no such level; -ESTALE: it is not the directory that it was; -EXDEV, -EINVAL as
 * of path_open_level; -EAGAIN: nobody can say whether there is such a level; or another -errno. */
int levels_dir(struct levels *l, const char *name);

/* Closes all directories that are kept: what is opened next is looked at anew. */
void levels_close(struct levels *l);

/* Why levels_dir answered `rc`, as a sentence. */
void levels_text(const struct levels *l, char *out, size_t cap, const char *name, int rc);

/* Appends how full each level is that this worker reaches: lines "level\nused free\n". */
void levels_add_use(struct levels *l, struct buf *use);

#endif
