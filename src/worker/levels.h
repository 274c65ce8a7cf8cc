/*
 * levels: the levels' directories as a worker reaches them: the table `level`, the ids of their
 * markers, which of them overlap, and the directories that a group of jobs has open.
 *
 * levels_init -> levels_read -> levels_both ... levels_close -> levels_release
 */
#ifndef TIERD_WORKER_LEVELS_H
#define TIERD_WORKER_LEVELS_H

#include <errno.h>

#include "base/buf.h"
#include "fs/file.h"
#include "fs/level.h"
#include "fs/overlaps.h"
#include "job/ladder.h"
#include "job/watch.h"
#include "worker/child.h"

enum {
    LEVELS_LOOK_BYTES = LADDER_MAX_LEVELS * (2 * JOB_LEVEL_BYTES + 256),
    LEVELS_FOUND_MAX = 4, /* with a copy of one content: more are for a person to look at */
};

struct levels {
    struct child *w;
    struct ladder ladder;
    int64_t born_ms; /* clock_mono_ms */
    int64_t read_ms; /* clock_mono_ms of the last reading, 0: never */
    uint64_t n_read; /* how often it was read: paths that were known before may be others now */
    struct {
        int dir;                    /* -1: not open */
        char id[LEVEL_ID_BYTES];    /* "": no marker was ever seen */
        bool warned;                /* that it has none */
        bool used;                  /* by a job */
        int unjudged;               /* why `judged` is zeros: -errno */
        struct sys_identity judged; /* the directory that `overlaps` is about; zeros: none */
    } at[LADDER_MAX_LEVELS];
    struct overlaps overlaps;
    int64_t judged_ms;      /* clock_mono_ms when they were, 0: not yet, of this table */
    enum level_check state; /* of the level that was refused with -ESTALE */
    size_t refused[2];      /* the pair that was, with LEVELS_ALIAS and LEVELS_NESTED */
};

/* Why a level cannot be used though it is open. */
enum {
    LEVELS_ALIAS = -ENOTUNIQ, /* both show the same files: nothing moves between the two */
    LEVELS_NESTED = -EDEADLK, /* it lies within another or around it: nothing moves at all */
    LEVELS_HUNG = -ETIMEDOUT, /* its file system does not answer: it is let alone until it does */
};

void levels_init(struct levels *l, struct child *w);
void levels_release(struct levels *l);

/* Reads the table and the ids, unless that was done in the last seconds; when it does, it closes
 * all directories. 0 or -errno. */
int levels_read(struct levels *l, bool fresh);

/*
 * The descriptors of the directories of two levels between which something is to move, or to be
 * taken away. They stay ours, and are opened, and looked at, once until levels_close or
 * levels_read; this itself reads the table when it does not know one of them, and judges which
 * levels overlap when a directory is not the one that was judged, or that was a while ago. 0, or
 * for *at, which is `a` or `b`: -ENOKEY: there is no such level; -ESTALE: it is not the directory
 * that it was; LEVELS_HUNG, LEVELS_NESTED, LEVELS_ALIAS; -EXDEV, -EINVAL as of path_open_level;
 * -EAGAIN: nobody can say whether there is such a level; or another -errno.
 */
int levels_both(struct levels *l, const char *a, const char *b, int *a_dir, int *b_dir,
                const char **at);

/* Where the file `name` stands besides the level `but`. Levels that show the same files count once.
 */
struct levels_found {
    size_t n, unclear; /* unclear: levels that could not be looked at, or have something there that
                        * is no file, or that cannot be opened */
    bool bare;         /* `but` has nothing in it (fs/level): it may not be mounted */
    struct {
        char level[JOB_LEVEL_BYTES];
        int64_t
            changed_s; /* st_ctime: its file system's clock when it was last written, or moved */
        struct file_id id;
    } at[LEVELS_FOUND_MAX];
};
void levels_search(struct levels *l, const char *but, const char *name, struct levels_found *out);

/* The path of a level as it was last read, valid until the next reading; NULL: no such level. */
const char *levels_path(const struct levels *l, const char *name);

/* What was read is out of date: the next job has the table read again. */
void levels_forget(struct levels *l);

/* A descriptor of the directory that was a level's, the caller's; or -EXDEV, -EINVAL, -errno. */
int levels_open_path(const struct levels *l, const char *path);

/* Closes all directories that are kept: what is opened next is looked at anew. */
void levels_close(struct levels *l);

/* Why levels_both answered `rc` for the level `name`, as a sentence. */
void levels_text(const struct levels *l, char *out, size_t cap, const char *name, int rc);

/* Whether this worker takes jobs of level `i` of the ladder: `levels` of its configuration, "a, b".
 */
bool levels_is_reached(const struct levels *l, size_t i);

/* Whether nobody but a looker touches the level: it is hung (base/turns); or we have just begun,
 * and no looker has come back from it yet. */
bool levels_is_let_alone(const struct levels *l, const char *name);

/* False: no level is. Cheap. */
bool levels_may_be_let_alone(const struct levels *l);

/* For the looker: touches each level that this host reaches and that answers, and appends to *look
 * what it sees. True; false: it was waited for a level so long that another looks by now. */
bool levels_look(struct levels *l, struct watch_look *look);

#endif
