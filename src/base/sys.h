/*
 * sys: raw system calls that musl 1.2.3 has no wrappers for. Each returns as the man page of its name
 * says: -1 with errno. A kernel without it gives ENOSYS; the caller knows the fall-back.
 */
#ifndef TIERD_BASE_SYS_H
#define TIERD_BASE_SYS_H

#include <stdint.h>

/* openat2(2), with RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS: `path` cannot leave
 * `dirfd`, whatever stands on the way. */
int sys_open_beneath(int dirfd, const char *path, int flags, unsigned mode);

/* renameat2(2) with RENAME_NOREPLACE. */
int sys_rename_noreplace(int old_dirfd, const char *old_path, int new_dirfd, const char *new_path);

#endif
