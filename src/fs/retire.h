/*
 * retire: takes away a copy that is no longer the authoritative one. The only code of tierd that
 * deletes content (PROTOCOL.md, One move, 9).
 */
#ifndef TIERD_FS_RETIRE_H
#define TIERD_FS_RETIRE_H

#include "fs/move.h"

/* What retire_run works on. */
struct retire {
    uint64_t cid;
    const char *name;
    int spare_level;   /* where the copy stands that is to go */
    int auth_level;    /* where the database says that the content is */
    struct move *move; /* the finished move of this process, or NULL: then bytes are compared */
    int (*confirm)(void *ctx); /* asks the database: 1 still so, 0 no, < 0 cannot say */
    void *ctx;
};

/*
 * Deletes the spare copy, after it was renamed to `.tierd-old.<cid>` beside it and everything was
 * checked: the database says elsewhere, the authoritative copy stands there, whole, and what was
 * renamed is what was copied. Otherwise puts it back. A private name that an earlier, killed
 * attempt left is judged by the same checks. MOVE_OK: nothing stands there any more. MOVE_CHANGED,
 * MOVE_NOT_REGULAR, MOVE_CONFLICT, MOVE_ALIAS: what stands there is not ours to delete, it was
 * left. Others: try again later.
 */
enum move_rc retire_run(const struct retire *r, int *error);

#endif
