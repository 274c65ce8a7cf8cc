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

struct retiring {
    const struct retire *r;
    int spare_dir, auth_dir;
    const char *leaf;
    char old[40];
    int error;
};

/* The descriptor of this process that holds the lock on that inode, or -1. */
static int known_fd(const struct retire *r, const struct stat *st) {
    if (r->move && r->move->src_fd >= 0 && file_same_inode(st, &r->move->src))
        return r->move->src_fd;
    if (r->move && r->move->dst_fd >= 0 && file_same_inode(st, &r->move->dst))
        return r->move->dst_fd;
    return -1;
}

/* Whether the authoritative copy stands, whole, and holds what the spare holds. */
static enum move_rc check_authority(struct retiring *t, int spare_fd, const struct stat *spare) {
    struct stat st = {0};
    int fd = -1;
    enum move_rc rc = file_open_regular(t->auth_dir, t->leaf, &fd, &st);
    if (rc != MOVE_OK)
        return rc;
    const struct move *m = t->r->move;
    bool staged = m && file_same_inode(&st, &m->dst) && file_same_inode(spare, &m->src) &&
                  st.st_size == m->dst.st_size && spare->st_size == m->src.st_size &&
                  spare->st_mtim.tv_sec == m->src.st_mtim.tv_sec &&
                  spare->st_mtim.tv_nsec == m->src.st_mtim.tv_nsec;
    if (!staged && !file_same_inode(&st, spare)) {
        int same = st.st_size == spare->st_size
                       ? file_identical(spare_fd, fd, (uint64_t)st.st_size, NULL, NULL)
                       : 0;
        rc = same == 1 ? MOVE_OK : same == 0 ? MOVE_CHANGED : MOVE_IO;
        if (rc == MOVE_OK && fsync(fd) < 0)
            rc = MOVE_IO;
    }
    t->error = errno;
    close(fd);
    return rc;
}

static enum move_rc put_back(struct retiring *t, enum move_rc why) {
    int saved = t->error;
    if (sys_rename_noreplace(t->spare_dir, t->old, t->spare_dir, t->leaf) < 0 &&
        (errno == EINVAL || errno == ENOSYS) &&
        linkat(t->spare_dir, t->old, t->spare_dir, t->leaf, 0) == 0)
        unlinkat(t->spare_dir, t->old, 0);
    fsync(t->spare_dir);
    t->error = saved;
    return why;
}

/* Judges what stands under the private name: removes it, or puts it back. */
static enum move_rc judge(struct retiring *t) {
    struct stat st = {0};
    int own = -1;
    enum move_rc rc = file_open_regular(t->spare_dir, t->old, &own, &st);
    if (rc != MOVE_OK) {
        t->error = errno;
        return rc;
    }
    if (known_fd(t->r, &st) < 0 && flock(own, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK) {
        close(own);
        return MOVE_BUSY;
    }
    rc = check_authority(t, own, &st);
    if (rc == MOVE_OK) {
        int yes = t->r->confirm(t->r->ctx);
        rc = yes == 1 ? MOVE_OK : yes == 0 ? MOVE_CHANGED : MOVE_BUSY;
    }
    if (rc != MOVE_OK) {
        rc = put_back(t, rc == MOVE_MISSING ? MOVE_CHANGED : rc);
    } else if (unlinkat(t->spare_dir, t->old, 0) < 0 || fsync(t->spare_dir) < 0) {
        t->error = errno;
        rc = MOVE_IO;
    }
    close(own);
    return rc;
}

/* Whether what has the name is ours to take away, before anything is touched. */
static enum move_rc look_first(struct retiring *t) {
    struct stat st = {0};
    int fd = -1;
    enum move_rc rc = file_open_regular(t->spare_dir, t->leaf, &fd, &st);
    if (rc != MOVE_OK)
        return rc;
    if (t->r->move) {
        const struct move *m = t->r->move;
        bool ours =
            file_same_inode(&st, &m->src) &&
            (m->linked || file_unchanged(&st, &m->src)); /* a link changes the ctime itself */
        rc = ours ? MOVE_OK : MOVE_CHANGED;
    } else {
        rc = flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK ? MOVE_BUSY : MOVE_OK;
        if (rc == MOVE_OK)
            rc = check_authority(t, fd, &st);
        if (rc == MOVE_MISSING)
            rc = MOVE_CHANGED;
        if (rc == MOVE_OK) {
            int yes = t->r->confirm(t->r->ctx);
            rc = yes == 1 ? MOVE_OK : yes == 0 ? MOVE_CHANGED : MOVE_BUSY;
        }
    }
    close(fd);
    return rc;
}

static enum move_rc rename_and_judge(struct retiring *t) {
    int rc = sys_rename_noreplace(t->spare_dir, t->leaf, t->spare_dir, t->old);
    if (rc < 0 && (errno == EINVAL || errno == ENOSYS)) {
        rc = linkat(t->spare_dir, t->leaf, t->spare_dir, t->old, 0);
        if (rc == 0)
            rc = unlinkat(t->spare_dir, t->leaf, 0);
    }
    if (rc < 0) {
        t->error = errno;
        return file_classify(errno);
    }
    return judge(t);
}

static enum move_rc retire_in(struct retiring *t) {
    struct stat a, b;
    if (fstat(t->spare_dir, &a) < 0 || fstat(t->auth_dir, &b) < 0)
        return MOVE_IO;
    if (file_same_inode(&a, &b))
        return MOVE_ALIAS;
    enum move_rc rc = MOVE_OK;
    (void)file_drop_temp(t->spare_dir, t->r->cid, t->r->move ? &t->r->move->src : NULL);
    if (fstatat(t->spare_dir, t->old, &a, AT_SYMLINK_NOFOLLOW) == 0)
        rc = judge(t); /* left by an attempt that was killed */
    if (rc != MOVE_OK)
        return rc;
    rc = look_first(t);
    if (rc == MOVE_MISSING)
        return MOVE_OK;
    return rc == MOVE_OK ? rename_and_judge(t) : rc;
}

enum move_rc retire_run(const struct retire *r, int *error) {
    struct retiring t = {.r = r, .leaf = path_leaf(r->name)};
    snprintf(t.old, sizeof t.old, NAME_PRIVATE_PREFIX "-old.%" PRIu64, r->cid);
    t.spare_dir = path_open_parent(r->spare_level, r->name, false);
    if (t.spare_dir < 0) {
        *error = errno;
        return errno == ENOENT ? MOVE_OK : file_classify(errno);
    }
    t.auth_dir = path_open_parent(r->auth_level, r->name, false);
    enum move_rc rc;
    if (t.auth_dir >= 0) {
        rc = retire_in(&t);
    } else {
        t.error = errno;
        rc = file_classify(errno);
        if (rc == MOVE_MISSING) /* the authoritative copy is not there: keep what we have */
            rc = MOVE_CHANGED;
    }
    *error = t.error;
    path_close(&t.spare_dir);
    path_close(&t.auth_dir);
    return rc;
}
