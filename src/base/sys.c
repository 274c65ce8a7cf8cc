#include "base/sys.h"

#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { NOREPLACE = 1 }; /* linux/fs.h */

int sys_rename_noreplace(int old_dirfd, const char *old_path, int new_dirfd, const char *new_path) {
    return (int)syscall(SYS_renameat2, old_dirfd, old_path, new_dirfd, new_path, NOREPLACE);
}

#ifndef SYS_openat2
#define SYS_openat2 437 /* the same on every architecture */
#endif

/* linux/openat2.h */
struct how {
    uint64_t flags, mode, resolve;
};
enum { NO_MAGICLINKS = 0x02, NO_SYMLINKS = 0x04, BENEATH = 0x08 };

int sys_open_beneath(int dirfd, const char *path, int flags) {
    struct how how = {.flags = (uint64_t)(unsigned)flags,
                      .resolve = BENEATH | NO_SYMLINKS | NO_MAGICLINKS};
    return (int)syscall(SYS_openat2, dirfd, path, &how, sizeof how);
}

/* struct statx of linux/stat.h, as far as it is read here; it is 256 bytes long. */
struct statx_raw {
    uint32_t mask, blksize;
    uint64_t attributes;
    uint32_t nlink, uid, gid;
    uint16_t mode, pad;
    uint64_t ino, size, blocks, attributes_mask;
    struct {
        int64_t s;
        uint32_t ns;
        int32_t pad;
    } atime, btime, ctime, mtime;
    uint64_t rest[16];
};
_Static_assert(sizeof(struct statx_raw) == 256, "struct statx of the kernel");
enum { MASK_BTIME = 0x800, ATTR_IMMUTABLE = 0x10, ATTR_APPEND = 0x20 };

int sys_extra(int fd, struct sys_extra *out) {
    struct statx_raw raw;
    memset(&raw, 0, sizeof raw);
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, MASK_BTIME, &raw) < 0)
        return -1;
    *out = (struct sys_extra){.fixed = (raw.attributes & (ATTR_IMMUTABLE | ATTR_APPEND)) != 0,
                              .has_born = (raw.mask & MASK_BTIME) != 0,
                              .born_s = raw.btime.s};
    return 0;
}
