#include "fs/writers.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "fs/file.h"

/* File systems that refuse a lease when their server does, writers or not (linux/magic.h). */
enum { NFS = 0x6969, CIFS = 0xff534d42, SMB2 = 0xfe534d42 };

static bool lease_is_the_servers(int fd) {
    struct statfs fs;
    if (fstatfs(fd, &fs) < 0)
        return true;
    unsigned type = (unsigned)fs.f_type;
    return type == NFS || type == CIFS || type == SMB2;
}

int writers_by_lease(int fd) {
    if (fcntl(fd, F_SETLEASE, F_RDLCK) == 0) {
        fcntl(fd, F_SETLEASE, F_UNLCK);
        return 0;
    }
    return errno == EAGAIN && !lease_is_the_servers(fd) ? 1 : -1;
}

/* Whether descriptor `name` of the process at `proc` can write (flags are octal, open(2)). */
static bool can_write(int proc, const char *name) {
    char path[64], line[256];
    unsigned flags = 0;
    snprintf(path, sizeof path, "fdinfo/%.32s", name);
    int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
    if (!f)
        return false;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "flags: %o", &flags) == 1)
            break;
    fclose(f);
    return (flags & O_ACCMODE) != O_RDONLY;
}

static bool has_open(int proc, const struct stat *file) {
    struct stat st;
    struct dirent *e;
    bool found = false;
    int fd = openat(proc, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    while (d && !found && (e = readdir(d)))
        found = isdigit((unsigned char)e->d_name[0]) && fstatat(dirfd(d), e->d_name, &st, 0) == 0 &&
                file_same_inode(&st, file) && can_write(proc, e->d_name);
    if (d)
        closedir(d);
    return found;
}

/* A mapping that others see and that can be written outlives the descriptor. */
static bool has_mapped(int proc, const struct stat *file) {
    char line[512], rights[8];
    unsigned high, low;
    uint64_t ino;
    bool found = false;
    int fd = openat(proc, "maps", O_RDONLY | O_CLOEXEC);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
    while (f && !found && fgets(line, sizeof line, f))
        found = sscanf(line, "%*s %7s %*s %x:%x %" SCNu64, rights, &high, &low, &ino) == 4 &&
                rights[1] == 'w' && rights[3] == 's' && ino == file->st_ino &&
                makedev(high, low) == file->st_dev;
    if (f)
        fclose(f);
    return found;
}

static bool seen_in_proc(int fd) {
    struct stat st;
    struct dirent *e;
    bool found = false;
    DIR *d = fstat(fd, &st) < 0 ? NULL : opendir("/proc");
    while (d && !found && (e = readdir(d))) {
        if (!isdigit((unsigned char)e->d_name[0]))
            continue;
        int proc = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        found = proc >= 0 && (has_open(proc, &st) || has_mapped(proc, &st));
        if (proc >= 0)
            close(proc);
    }
    if (d)
        closedir(d);
    return found;
}

bool writers_seen(int fd) {
    int by_lease = writers_by_lease(fd);
    return by_lease < 0 ? seen_in_proc(fd) : by_lease;
}
