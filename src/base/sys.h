/*
 * sys: raw system calls that musl 1.2.3 has no wrappers for.
 */
#ifndef TIERD_BASE_SYS_H
#define TIERD_BASE_SYS_H

/* renameat2(2) with RENAME_NOREPLACE: -1 with errno; ENOSYS or EINVAL where the kernel or the file
 * system lacks it. */
int sys_rename_noreplace(int old_dirfd, const char *old_path, int new_dirfd, const char *new_path);

#endif
