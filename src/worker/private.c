#include "worker/private.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

#include "base/name.h"
#include "worker/tree.h"

enum { MAKE_TRIES = 3 }; /* a name that comes back this often has a living maker */

void private_temp_name(char out[PRIVATE_NAME_BYTES], uint64_t cid) {
    snprintf(out, PRIVATE_NAME_BYTES, NAME_PRIVATE_PREFIX "-tmp.%" PRIu64, cid);
}

void private_old_name(char out[PRIVATE_NAME_BYTES], uint64_t cid) {
    snprintf(out, PRIVATE_NAME_BYTES, NAME_PRIVATE_PREFIX "-old.%" PRIu64, cid);
}

/* Opens and locks what has a private name, and sees that it has it still. *fd is closed on failure.
 */
static int take_over(int dir, const char *name, int *fd, struct stat *st) {
    int own = -1;
    int rc = tree_open_file(dir, name, &own, st);
    if (rc < 0)
        return rc;
    /* Without locks nobody's death can be proved. */
    if (tree_lock(own) != 1 || !tree_names(dir, name, st)) {
        close(own);
        return -EBUSY;
    }
    *fd = own;
    return 0;
}

int private_drop_temp(int dir, uint64_t cid, const struct stat *known) {
    char name[PRIVATE_NAME_BYTES];
    struct stat st;
    int fd = -1;
    private_temp_name(name, cid);
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (!known || !tree_same_inode(&st, known)) {
        int rc = take_over(dir, name, &fd, &st);
        if (rc < 0)
            return rc == -ENOENT ? 0 : rc;
    }
    int rc = unlinkat(dir, name, 0) < 0 ? -errno : 0;
    if (fd >= 0)
        close(fd);
    return rc;
}

/* Its lock must be ours and the name must be its own before anybody may believe in it: between the
 * making and the locking another worker may have taken it for a dead one's. */
static bool is_ours(int dir, const char *name, int fd) {
    struct stat st;
    return tree_lock(fd) >= 0 && fstat(fd, &st) == 0 && tree_names(dir, name, &st);
}

int private_make_temp(int dir, uint64_t cid, int *fd) {
    char name[PRIVATE_NAME_BYTES];
    private_temp_name(name, cid);
    for (int i = 0; i < MAKE_TRIES; i++) {
        int made = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (made >= 0 && is_ours(dir, name, made)) {
            *fd = made;
            return 0;
        }
        if (made >= 0)
            close(made);
        else if (errno != EEXIST)
            return -errno;
        int rc = made >= 0 ? 0 : private_drop_temp(dir, cid, NULL);
        if (rc < 0)
            return rc;
    }
    return -EBUSY;
}

int private_restore_old(int dir, uint64_t cid, const char *leaf) {
    char name[PRIVATE_NAME_BYTES];
    struct stat st;
    int fd = -1;
    private_old_name(name, cid);
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0) /* nearly always: one call, not three */
        return -errno;
    int rc = take_over(dir, name, &fd, &st);
    if (rc < 0)
        return rc;
    rc = tree_rename(dir, name, leaf);
    if (rc == 0 && fsync(dir) < 0)
        rc = -errno;
    close(fd);
    return rc;
}
