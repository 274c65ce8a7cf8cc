/*
 * sys: raw system calls that musl 1.2.3 has no wrappers for, and requests of which its own headers
 * clash with those of Linux.
 */
#ifndef TIERD_BASE_SYS_H
#define TIERD_BASE_SYS_H

#include <stdint.h>
#include <sys/stat.h>

/* renameat2(2) with RENAME_NOREPLACE: -1 with errno; ENOSYS or EINVAL where the kernel or the file
 * system lacks it. */
int sys_rename_noreplace(int old_dirfd, const char *old_path, int new_dirfd, const char *new_path);

/* As fstat(2), but what a file system on the net or in user space remembers of the file is asked
 * for anew (statx(2), AT_STATX_FORCE_SYNC), where the kernel can (4.11). Of *st only device, inode,
 * mode, links, owner, size, blocks and the times are set. 0, or -1 with errno. */
int sys_stat_fresh(int fd, struct stat *st);

/* Which directory or file a descriptor is of, and through which mount it was reached (statx(2),
 * STATX_MNT_ID_UNIQUE since Linux 6.8; before, numbers of mounts may come again). */
struct sys_identity {
    uint64_t dev, ino, mount; /* `mount` 0: the kernel does not say */
};

/* 0 or -1 with errno. */
int sys_identity(int fd, struct sys_identity *out);

/* How many descriptors this process may have open (getrlimit(2), RLIMIT_NOFILE): the soft limit is
 * raised to the hard one first, where that is allowed. */
uint64_t sys_files_max(void);

/* The flags of an inode, as chattr(1) sets them (ioctl_iflags(2), FS_NODUMP_FL ...). 0 or -1 with
 * errno; a file system that has none says so in many ways. */
int sys_flags_get(int fd, unsigned *flags);
int sys_flags_set(int fd, unsigned flags);

#endif
