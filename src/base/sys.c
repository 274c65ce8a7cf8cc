#include "base/sys.h"

#include <sys/syscall.h>
#include <unistd.h>

/* linux/fs.h, which clashes with musl's own headers. */
enum { NOREPLACE = 1 };

int sys_rename_noreplace(int old_dirfd, const char *old_path, int new_dirfd, const char *new_path) {
    return (int)syscall(SYS_renameat2, old_dirfd, old_path, new_dirfd, new_path, NOREPLACE);
}
