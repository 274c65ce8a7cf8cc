#include "fs/alias.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/path.h"

enum { REMOVE_TRIES = 3 }; /* what is left then is for `tierd check` */

/* An open descriptor of the probe, or -errno. */
static int make(int dir, const char *name, const char *leaf) {
    if (leaf && linkat(dir, leaf, dir, name, 0) == 0) {
        int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
    }
    int fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    return fd < 0 ? -errno : fd;
}

int alias_probe_make(struct alias_probe *p, int dir, const char *leaf) {
    uint64_t nonce;
    if (getrandom(&nonce, sizeof nonce, 0) != sizeof nonce)
        return -EIO;
    snprintf(p->name, sizeof p->name, ALIAS_PROBE_PREFIX "%016" PRIx64, nonce);
    p->dir = dir;
    p->fd = make(dir, p->name, leaf);
    if (p->fd < 0)
        return p->fd;
    (void)flock(p->fd, LOCK_EX | LOCK_NB); /* of a link, the holder of the file may have it */
    return 0;
}

int alias_probe_seen(const struct alias_probe *p, int other) {
    struct stat st;
    if (fstatat(other, p->name, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return 1;
    if (errno != ENOENT)
        return -errno;
    return fstatat(p->dir, p->name, &st, AT_SYMLINK_NOFOLLOW) == 0 ? 0 : -EAGAIN;
}

void alias_probe_remove(struct alias_probe *p) {
    for (int tries = 0; tries < REMOVE_TRIES;
         tries++) /* EINTR, EBUSY of a file system in user space */
        if (unlinkat(p->dir, p->name, 0) == 0 || errno == ENOENT)
            break;
    path_close(&p->fd);
}

void alias_sweep(int dir) {
    struct dirent *e;
    int list = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = list < 0 ? NULL : fdopendir(list);
    while (d && (e = readdir(d))) {
        if (strncmp(e->d_name, ALIAS_PROBE_PREFIX, strlen(ALIAS_PROBE_PREFIX)) != 0)
            continue;
        int fd = openat(dir, e->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
            (void)unlinkat(dir, e->d_name, 0);
        path_close(&fd);
    }
    if (d)
        closedir(d);
    else
        path_close(&list);
}

int alias_shows(int dir, int other, const char *leaf) {
    struct alias_probe p;
    int rc = alias_probe_make(&p, dir, leaf);
    if (rc < 0)
        return rc;
    rc = alias_probe_seen(&p, other);
    alias_probe_remove(&p);
    return rc;
}

int alias_shows_once(struct alias_set *set, int dir, int other, const char *leaf) {
    for (size_t i = 0; i < set->n; i++)
        if (set->apart[i].dir == dir && set->apart[i].other == other)
            return 0;
    int shows = alias_shows(dir, other, leaf);
    if (shows == 0 && set->n < ALIAS_SET_MAX) {
        set->apart[set->n].dir = dir;
        set->apart[set->n++].other = other;
    }
    return shows;
}
