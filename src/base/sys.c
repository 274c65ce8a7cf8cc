#include "base/sys.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

/* From linux/openat2.h and linux/fs.h, which clash with musl's own headers. */
struct open_how {
    uint64_t flags;
    uint64_t mode;
    uint64_t resolve;
};
enum { RESOLVE_NO_MAGICLINKS_ = 0x02, RESOLVE_NO_SYMLINKS_ = 0x04, RESOLVE_BENEATH_ = 0x08 };
enum { RENAME_NOREPLACE_ = 1 };
#ifndef SYS_openat2
#define SYS_openat2 437 /* the same on every architecture */
#endif

int sys_open_beneath(int dirfd, const char *path, int flags, unsigned mode) {
    struct open_how how = {.flags = (uint64_t)(unsigned)flags,
                           .mode = mode,
                           .resolve =
                               RESOLVE_BENEATH_ | RESOLVE_NO_SYMLINKS_ | RESOLVE_NO_MAGICLINKS_};
    return (int)syscall(SYS_openat2, dirfd, path, &how, sizeof how);
}

int sys_rename_noreplace(int old_dirfd, const char *old_path, int new_dirfd, const char *new_path) {
    return (int)syscall(SYS_renameat2, old_dirfd, old_path, new_dirfd, new_path, RENAME_NOREPLACE_);
}
