#include "fs/retire.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/name.h"
#include "base/sys.h"
#include "fs/path.h"

/* The descriptor of this process that holds the lock on that inode, or -1. */
static int known_fd(const struct retire *r, const struct stat *st) {
    if (r->move && r->move->src_fd >= 0 && file_same_inode(st, &r->move->src))
        return r->move->src_fd;
    if (r->move && r->move->dst_fd >= 0 && file_same_inode(st, &r->move->dst))
        return r->move->dst_fd;
    return -1;
}

/* Whether the finished move of this process put what stands there, and the spare is what it copied,
 * both as they were then. */
static bool is_as_moved(const struct retire *r, const struct stat *auth, const struct stat *spare) {
    const struct move *m = r->move;
    return m && S_ISREG(auth->st_mode) && file_same_inode(auth, &m->dst) &&
           file_same_inode(spare, &m->src) && auth->st_size == m->dst.st_size &&
           spare->st_size == m->src.st_size && spare->st_mtim.tv_sec == m->src.st_mtim.tv_sec &&
           spare->st_mtim.tv_nsec == m->src.st_mtim.tv_nsec;
}

/* Whether the authoritative copy stands, whole, and holds what the spare holds. */
static enum move_rc check_authority(struct retire *r, int spare_fd, const struct stat *spare) {
    struct stat st = {0};
    int fd = -1;
    if (fstatat(r->auth_dir, path_leaf(r->name), &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        is_as_moved(r, &st, spare))
        return MOVE_OK;
    enum move_rc rc = file_open_regular(r->auth_dir, path_leaf(r->name), &fd, &st);
    if (rc != MOVE_OK)
        return rc;
    if (!file_same_inode(&st, spare)) {
        int same = st.st_size == spare->st_size
                       ? file_identical(spare_fd, fd, (uint64_t)st.st_size, r->tick, r->ctx)
                       : 0;
        rc = same == 1 ? MOVE_OK : same == 0 ? MOVE_CHANGED : MOVE_IO;
        if (rc == MOVE_OK && fsync(fd) < 0)
            rc = MOVE_IO;
    }
    r->error = errno;
    close(fd);
    return rc;
}

static enum move_rc put_back(struct retire *r, enum move_rc why) {
    const char *leaf = path_leaf(r->name);
    if (sys_rename_noreplace(r->spare_dir, r->old, r->spare_dir, leaf) < 0 &&
        (errno == EINVAL || errno == ENOSYS) &&
        linkat(r->spare_dir, r->old, r->spare_dir, leaf, 0) == 0)
        unlinkat(r->spare_dir, r->old, 0);
    fsync(r->spare_dir);
    path_close(&r->own);
    return why;
}

/* Judges what stands under the private name; what is not to go is put back. */
static enum move_rc judge(struct retire *r) {
    struct stat st = {0};
    enum move_rc rc = file_open_regular(r->spare_dir, r->old, &r->own, &st);
    if (rc != MOVE_OK) {
        r->error = errno;
        return rc;
    }
    if (known_fd(r, &st) < 0 && flock(r->own, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK) {
        path_close(&r->own);
        return MOVE_BUSY;
    }
    rc = check_authority(r, r->own, &st);
    if (rc == MOVE_MISSING)
        rc = MOVE_CHANGED; /* the authoritative copy is not there: keep what we have */
    return rc == MOVE_OK ? MOVE_OK : put_back(r, rc);
}

/* Whether what has the name is still what this process moved. */
static enum move_rc look_at_moved(struct retire *r) {
    struct stat st;
    const struct move *m = r->move;
    if (fstatat(r->spare_dir, path_leaf(r->name), &st, AT_SYMLINK_NOFOLLOW) < 0) {
        r->error = errno;
        return file_classify(errno);
    }
    bool ours = file_same_inode(&st, &m->src) &&
                (m->linked || file_unchanged(&st, &m->src)); /* a link changes the ctime itself */
    return ours ? MOVE_OK : MOVE_CHANGED;
}

/* Whether what has the name is ours to take away, before anything is touched. */
static enum move_rc look_first(struct retire *r) {
    struct stat st = {0};
    int fd = -1;
    if (r->move)
        return look_at_moved(r);
    enum move_rc rc = file_open_regular(r->spare_dir, path_leaf(r->name), &fd, &st);
    if (rc != MOVE_OK)
        return rc;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK) {
        rc = MOVE_BUSY;
    } else {
        rc = check_authority(r, fd, &st);
        if (rc == MOVE_MISSING)
            rc = MOVE_CHANGED;
    }
    close(fd);
    return rc;
}

static enum move_rc rename_and_judge(struct retire *r) {
    const char *leaf = path_leaf(r->name);
    int rc = sys_rename_noreplace(r->spare_dir, leaf, r->spare_dir, r->old);
    if (rc < 0 && (errno == EINVAL || errno == ENOSYS)) {
        rc = linkat(r->spare_dir, leaf, r->spare_dir, r->old, 0);
        if (rc == 0)
            rc = unlinkat(r->spare_dir, leaf, 0);
    }
    if (rc < 0) {
        r->error = errno;
        return file_classify(errno);
    }
    return judge(r);
}

static enum move_rc open_dirs(struct retire *r) {
    r->spare_dir = path_dir(r->dirs, r->spare_level, r->name, false);
    if (r->spare_dir < 0) {
        r->error = errno;
        return file_classify(errno); /* MOVE_MISSING: nothing can stand there */
    }
    r->auth_dir = path_dir(r->dirs, r->auth_level, r->name, false);
    if (r->auth_dir >= 0)
        return MOVE_OK;
    r->error = errno;
    enum move_rc rc = file_classify(errno);
    return rc == MOVE_MISSING ? MOVE_CHANGED : rc; /* no authoritative copy: keep what we have */
}

enum move_rc retire_begin(struct retire *r) {
    struct stat st;
    r->spare_dir = r->auth_dir = r->own = -1;
    r->removed = r->again = false;
    r->error = 0;
    snprintf(r->old, sizeof r->old, NAME_PRIVATE_PREFIX "-old.%" PRIu64, r->cid);
    enum move_rc rc = open_dirs(r);
    if (rc != MOVE_OK)
        return rc == MOVE_MISSING ? MOVE_OK : rc;
    if (r->spare_dir == r->auth_dir)
        return MOVE_ALIAS;
    (void)file_drop_temp(r->spare_dir, r->cid, r->move ? &r->move->src : NULL);
    if (fstatat(r->spare_dir, r->old, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        r->again = true; /* left by an attempt that was killed */
        return judge(r);
    }
    rc = look_first(r);
    if (rc == MOVE_MISSING)
        return MOVE_OK;
    return rc == MOVE_OK ? rename_and_judge(r) : rc;
}

enum move_rc retire_end(struct retire *r, int confirmed) {
    if (confirmed != 1)
        return put_back(r, confirmed == 0 ? MOVE_CHANGED : MOVE_BUSY);
    r->removed = unlinkat(r->spare_dir, r->old, 0) == 0;
    r->error = r->removed ? 0 : errno;
    path_close(&r->own);
    return r->removed ? MOVE_OK : MOVE_IO;
}

void retire_release(struct retire *r) {
    path_close(&r->own);
    r->spare_dir = r->auth_dir = -1;
}

/* ---- leftovers in the content's own level ---- */

/* Judges it, and leaves it open in *fd, locked while it is open. */
static enum retire_left look_at_left(int dir, const char *old, const char *leaf, int *fd) {
    struct stat own = {0}, st = {0};
    int content = -1, same;
    enum retire_left is = RETIRE_LEFT_UNCLEAR;
    if (file_open_regular(dir, old, fd, &own) != MOVE_OK || flock(*fd, LOCK_EX | LOCK_NB) < 0)
        return is;
    enum move_rc rc = file_open_regular(dir, leaf, &content, &st);
    if (rc == MOVE_MISSING) {
        is = RETIRE_LEFT_ALONE;
    } else if (rc == MOVE_OK) {
        same = st.st_size == own.st_size
                   ? file_identical(*fd, content, (uint64_t)st.st_size, NULL, NULL)
                   : 0;
        is = same == 0                          ? RETIRE_LEFT_DIFFERENT
             : same == 1 && fsync(content) == 0 ? RETIRE_LEFT_SAME
                                                : RETIRE_LEFT_UNCLEAR;
    }
    path_close(&content);
    return is;
}

enum retire_left retire_judge_left(int dir, const char *old, const char *leaf) {
    int fd = -1;
    enum retire_left is = look_at_left(dir, old, leaf, &fd);
    path_close(&fd);
    return is;
}

bool retire_mend_left(int dir, const char *old, const char *leaf, enum retire_left was) {
    int fd = -1, rc = -1;
    if (look_at_left(dir, old, leaf, &fd) == was) {
        if (was == RETIRE_LEFT_ALONE)
            rc = file_publish_temp(dir, old, leaf);
        else if (was == RETIRE_LEFT_SAME)
            rc = unlinkat(dir, old, 0);
    }
    bool mended = rc == 0 && fsync(dir) == 0;
    path_close(&fd);
    return mended;
}
