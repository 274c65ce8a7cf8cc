#include "base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* linux/fs.h, which clashes with musl's own headers. */
enum { NOREPLACE = 1 };
static const unsigned long get_flags = _IOR('f', 1, long), set_flags = _IOW('f', 2, long);

int sys_rename_noreplace(int old_dirfd, const char *old_path, int new_dirfd, const char *new_path) {
    return (int)syscall(SYS_renameat2, old_dirfd, old_path, new_dirfd, new_path, NOREPLACE);
}

#ifdef SYS_statx
/* struct statx of linux/stat.h. */
struct instant {
    int64_t s;
    uint32_t ns;
    int32_t unused;
};
struct answer {
    uint32_t mask, block_bytes;
    uint64_t attributes;
    uint32_t links, uid, gid;
    uint16_t mode, unused;
    uint64_t inode, bytes, blocks, attributes_mask;
    struct instant accessed, born, changed, modified;
    uint32_t rdev_major, rdev_minor, dev_major, dev_minor;
    uint64_t mount, more[13];
};
_Static_assert(sizeof(struct answer) == 256, "statx(2)");
enum {
    EMPTY_PATH = 0x1000,
    FORCE_SYNC = 0x2000,
    BASIC_STATS = 0x7ff,
    INODE = 0x100,
    MOUNT = 0x1000,
    UNIQUE_MOUNT = 0x4000
};

static struct timespec time_of(struct instant i) {
    return (struct timespec){.tv_sec = (time_t)i.s, .tv_nsec = (long)i.ns};
}

int sys_stat_fresh(int fd, struct stat *st) {
    struct answer a;
    if (syscall(SYS_statx, fd, "", EMPTY_PATH | FORCE_SYNC, BASIC_STATS, &a) < 0)
        return errno == ENOSYS ? fstat(fd, st) : -1;
    memset(st, 0, sizeof *st);
    st->st_dev = makedev(a.dev_major, a.dev_minor);
    st->st_ino = a.inode;
    st->st_mode = a.mode;
    st->st_nlink = a.links;
    st->st_uid = a.uid;
    st->st_gid = a.gid;
    st->st_size = (off_t)a.bytes;
    st->st_blocks = (blkcnt_t)a.blocks;
    st->st_atim = time_of(a.accessed);
    st->st_mtim = time_of(a.modified);
    st->st_ctim = time_of(a.changed);
    return 0;
}

/* -1 with ENOSYS where the kernel is older. */
static int ask_identity(int fd, struct sys_identity *out) {
    struct answer a;
    if (syscall(SYS_statx, fd, "", EMPTY_PATH, INODE | MOUNT | UNIQUE_MOUNT, &a) < 0)
        return -1;
    out->dev = makedev(a.dev_major, a.dev_minor);
    out->ino = a.inode;
    out->mount = a.mask & (MOUNT | UNIQUE_MOUNT) ? a.mount : 0;
    return 0;
}
#else
static int ask_identity(int fd, struct sys_identity *out) {
    (void)fd;
    (void)out;
    errno = ENOSYS;
    return -1;
}

int sys_stat_fresh(int fd, struct stat *st) {
    return fstat(fd, st);
}
#endif

int sys_identity(int fd, struct sys_identity *out) {
    struct stat st;
    if (ask_identity(fd, out) == 0)
        return 0;
    if (errno != ENOSYS || fstat(fd, &st) < 0)
        return -1;
    *out = (struct sys_identity){.dev = st.st_dev, .ino = st.st_ino};
    return 0;
}

uint64_t sys_files_max(void) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) < 0)
        return 0; /* it never fails so */
    rlim_t allowed = files.rlim_cur;
    files.rlim_cur = files.rlim_max;
    return setrlimit(RLIMIT_NOFILE, &files) == 0 ? files.rlim_max : allowed;
}

/* An int is read and written, whatever the requests say; room for more, as old kernels had it. */
int sys_flags_get(int fd, unsigned *flags) {
    unsigned out[2] = {0};
    int rc = (int)syscall(SYS_ioctl, fd, get_flags, out);
    if (rc == 0)
        *flags = out[0];
    return rc;
}

int sys_flags_set(int fd, unsigned flags) {
    unsigned in[2] = {flags};
    return (int)syscall(SYS_ioctl, fd, set_flags, in);
}
