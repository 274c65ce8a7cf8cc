/*
 * meta: a copy has exactly its source's metadata, no less and no more, whether it was just made or
 * stood there before: owner, mode, access control list, extended attributes, times, and the flags
 * that a person sets (chattr(1): A, d, S). What cannot be kept is refused with its name.
 *
 * Not the file's, and let alone: labels of security modules other than file capabilities (set where
 * the destination lets us), and how its data is stored (compression, checksums, encryption,
 * project, DAX: the destination's own policy). Cannot be kept anywhere: the time of birth, and of
 * the last change of the inode. Cannot be seen without CAP_SYS_ADMIN: attributes `trusted.*`
 * (xattr(7)).
 *
 * meta_look (files) -> meta_copy -> fsync -> meta_check
 */
#ifndef TIERD_FS_META_H
#define TIERD_FS_META_H

#include "fs/file.h"

enum { META_WHAT_BYTES = 320 }; /* a sentence and the name of an attribute (XATTR_NAME_MAX) */

struct meta {
    /* Set by the caller. */
    int from, to;
    const struct stat *st; /* of `from` */
    bool folder;           /* without times and flags */
    bool shared;           /* `to` has further names: change nothing of it */

    bool changed;   /* something was: sync it */
    bool rich;      /* there is more to it than owner, mode and times */
    unsigned flags; /* of `from`, by meta_look */
    int error;
    char what[META_WHAT_BYTES]; /* what failed, "keep the owner" */
};

/* Reads the flags of `from`. MOVE_FIXED: immutable or append-only, it could not go after it was
 * copied; MOVE_UNKEPT: sealed by fs-verity, which no copy is. */
enum move_rc meta_look(struct meta *m);

/*
 * Makes `to` what `from` is. At no moment has anybody more rights than before or afterwards: they
 * are narrowed to the owner's first, and given last. MOVE_UNKEPT: `what` cannot be kept there;
 * MOVE_NOSPACE; MOVE_CHANGED: an attribute of `from` went meanwhile; MOVE_HARDLINKS: a change is
 * needed and `shared`; or as of file_classify.
 */
enum move_rc meta_copy(struct meta *m);

/* Whether `to`, which looks like `now`, holds what meta_copy gave it: some file systems say yes to
 * what they cannot hold (FUSE, vfat with `quiet`). The time of modification may be off by what the
 * destination rounds it down to, less than 2 s (FAT). MOVE_OK, MOVE_UNKEPT, or as meta_copy. */
enum move_rc meta_check(struct meta *m, const struct stat *now);

/* Whether an access control list of NFS version 4 (`system.nfs4_acl`, RFC 7530, 6.2.1, in XDR)
 * names nobody but owner, group and everyone: then the mode says it all. */
bool meta_nfs4_is_mode(const void *acl, size_t n);

#endif
