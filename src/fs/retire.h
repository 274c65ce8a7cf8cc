/*
 * retire: takes away a copy that is no longer the authoritative one. The only code of tierd that
 * deletes content (PROTOCOL.md, One move, 9).
 *
 *   -- without a move of this process, the caller first asks the database where the content is --
 *   retire_begin    renames the copy to `.tierd-old.<cid>` beside it (into a folder of that name
 *                   where nothing else can be renamed without a risk), and checks all files
 *   -- the caller asks the database: is the content still where we believe? --
 *   retire_end      removes what was renamed, or puts it back
 *   file_sync_dirs  on `spare_dir`, where `removed` says so
 *   retire_release
 *
 * Several may go through each step together, so that they share the question and the sync.
 */
#ifndef TIERD_FS_RETIRE_H
#define TIERD_FS_RETIRE_H

#include "fs/alias.h"
#include "fs/move.h"

struct retire {
    /* Set by the caller. */
    uint64_t cid;
    const char *name;
    const char *spare_name; /* the copy's, when it is another than the content's by now; or NULL */
    int spare_level;        /* where the copy stands that is to go */
    int auth_level;         /* where the database says that the content is */
    struct move *move; /* the finished move of this process, or NULL: then bytes are compared */
    const struct file_id *was, *made; /* of a move that left the copy behind, the copy as it was
                                       * then and what was made of it; NULL: nobody knows, or
                                       * `move` does */
    const struct file_id *stale; /* a copy that was never committed, and is out of date: if it is
                                  * the one at hand it goes, whatever it holds, unless it is newer
                                  * than the authoritative one; NULL: none */
    bool only_stale;             /* and nothing else goes: what has another number may be adopted,
                                  * or is not known by its name */
    struct alias_set *apart;     /* of the round; may be NULL */
    bool sweep;                  /* somebody died of it: what was left is looked for */
    move_tick_fn *tick;          /* while they are; may be NULL */
    void *ctx;
    struct path_dirs *dirs; /* where the directories are opened; to stay until retire_release, and
                             * younger than the move, so that what was renamed since is seen */

    int spare_dir, auth_dir; /* borrowed of it */
    int own;                 /* the copy, open and locked; -1: none stands there */
    int box; /* the folder that has the private name, open and locked; -1: the copy itself has */
    bool removed;  /* something was: sync spare_dir */
    bool kept;     /* it could not be put back: it stands under its private name, for a person */
    bool one_file; /* both names are of one inode */
    bool spare_local, auth_local; /* path_is_local */
    bool alone;                   /* nothing stands at the authoritative place */
    struct file_id ids[2];
    bool again; /* what was judged had been left by a killed attempt: begin once more */
    int error;  /* errno of the outcome, or 0 */
    char old[40];
};

/*
 * MOVE_OK with `own`: renamed, and everything that files can tell was checked: the authoritative
 * copy stands, whole, and what was renamed is what was copied. A private name that a killed attempt
 * left is judged by the same checks. MOVE_OK without: nothing stands there any more. MOVE_NEWER:
 * somebody wrote to it, or put a file in its place that is not older, since it was copied, and the
 * authoritative copy still is what was made of it then: what is left here is the content.
 * MOVE_CHANGED, MOVE_BAD_PATH, MOVE_NOT_REGULAR, MOVE_CONFLICT, MOVE_ALIAS: what stands there is
 * not ours to delete, it was left or put back. Others: try again later. Initialises all but what
 * the caller has set.
 */
enum move_rc retire_begin(struct retire *r);

/* Ends what was begun with `own`. `confirmed`: 1 the database still says so, 0 it does not, < 0
 * nobody can say. */
enum move_rc retire_end(struct retire *r, int confirmed);

/* Closes everything; safe at any point after retire_begin. */
void retire_release(struct retire *r);

/*
 * What a killed retirement left under its private name in the level that has become the content's
 * own again, where no retirement comes by: judged by what stands under the content's name `leaf`
 * beside it, which is durable when this says that it is the same.
 */
enum retire_left {
    RETIRE_LEFT_ALONE,     /* the content's name is free: it is the content */
    RETIRE_LEFT_SAME,      /* the same to the byte: it is superfluous */
    RETIRE_LEFT_DIFFERENT, /* for a person */
    RETIRE_LEFT_EMPTY,     /* a folder, see `box`, with nothing in it */
    RETIRE_LEFT_UNCLEAR,   /* one of them cannot be read, or is in use */
};
enum retire_left retire_judge_left(int dir, const char *old, const char *leaf);

/* Puts what is alone back under the content's name, removes what is superfluous, if it still is as
 * it `was` judged. Nobody else may be at the content: the caller has its claim. True when it was
 * mended, durably. */
bool retire_mend_left(int dir, const char *old, const char *leaf, enum retire_left was);

#endif
