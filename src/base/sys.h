/*
 * sys: raw system calls that musl 1.2.3 has no wrappers for. The structures of the kernel's headers are
 * spelled out in sys.c, since linux/fs.h and linux/stat.h clash with musl's own headers.
 *
 * All return -1 with errno on failure, as the C library's wrappers do. A kernel or a seccomp filter that
 * does not know the call shows as ENOSYS; callers fall back.
 */
#ifndef TIERD_BASE_SYS_H
#define TIERD_BASE_SYS_H

#include <stdbool.h>
#include <stdint.h>

/* renameat2(2) with RENAME_NOREPLACE: EEXIST when the new name is taken; ENOSYS or EINVAL where the
 * kernel or the file system lacks it. */
int sys_rename_noreplace(int old_dirfd, const char *old_path, int new_dirfd, const char *new_path);

/* openat2(2) with RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS and RESOLVE_NO_MAGICLINKS: never leaves `dirfd`,
 * ELOOP on any symbolic link. A descriptor. */
int sys_open_beneath(int dirfd, const char *path, int flags);

/* What statx(2) knows beyond fstat(2). */
struct sys_extra {
    bool fixed;      /* immutable or append-only: can be neither linked, renamed nor unlinked */
    bool has_born;   /* the file system keeps the time of birth */
    int64_t born_s;  /* seconds since the epoch */
};

int sys_extra(int fd, struct sys_extra *out);

#endif
