#include "fs/alias.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

int alias_probe_name(char out[ALIAS_PROBE_BYTES]) {
    uint64_t nonce;
    if (getrandom(&nonce, sizeof nonce, 0) != sizeof nonce)
        return errno ? -errno : -EIO;
    snprintf(out, ALIAS_PROBE_BYTES, ALIAS_PROBE_PREFIX "%016" PRIx64, nonce);
    return 0;
}

int alias_probe_make(int dir, const char *probe, const char *leaf) {
    int fd = openat(dir, probe, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd >= 0)
        return close(fd) < 0 ? -errno : 0;
    int error = errno;
    /* a full level must be able to give away what stands in it, and a link takes no inode */
    if ((error == ENOSPC || error == EDQUOT) && leaf && linkat(dir, leaf, dir, probe, 0) == 0)
        return 0;
    return -error;
}

int alias_probe_seen(int dir, const char *probe) {
    struct stat st;
    if (fstatat(dir, probe, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return 1;
    return errno == ENOENT ? 0 : -errno;
}

void alias_probe_remove(int dir, const char *probe) {
    (void)unlinkat(dir, probe, 0); /* by a name that we drew ourselves */
}

int alias_shows(int dir, int other, const char *leaf) {
    char probe[ALIAS_PROBE_BYTES];
    int rc = alias_probe_name(probe);
    if (rc == 0)
        rc = alias_probe_make(dir, probe, leaf);
    if (rc < 0)
        return rc;
    int seen = alias_probe_seen(other, probe);
    alias_probe_remove(dir, probe);
    return seen;
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
