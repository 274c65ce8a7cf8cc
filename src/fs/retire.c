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
#include "fs/writers.h"

/* ---- the private name ---- */

/*
 * Where a file system can neither link nor rename without replacing (exFAT), the private name is a
 * folder, the box, with the copy in it under the same name: mkdir(2) replaces nothing, and a plain
 * rename into an empty folder of our own has nothing to replace. Who opens it locks it, so nobody
 * else puts something in; who is killed leaves an empty box or a full one, and the next attempt
 * goes on from there. Nothing can be taken out of it again without a risk for what has the name by
 * then, so a copy that turns out not to go stays in it, and is reported.
 */

/* Opens and locks it. A descriptor, or -1 with errno (EWOULDBLOCK: somebody is at it). */
static int open_box(int dir, const char *old) {
    int fd = openat(dir, old, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK) {
        path_close(&fd);
        errno = EWOULDBLOCK;
    }
    return fd;
}

static bool is_full(int box, const char *old) {
    struct stat st;
    return fstatat(box, old, &st, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT;
}

/* The directory that has the private name of a copy: the box, or the one beside the content. */
static int old_dir(const struct retire *r) {
    return r->box >= 0 ? r->box : r->spare_dir;
}

static enum move_rc refused(struct retire *r) {
    r->error = errno;
    return errno == EWOULDBLOCK || errno == ENOTEMPTY ? MOVE_BUSY : file_classify(errno);
}

/* The name under which the copy stands. */
static const char *spare_name(const struct retire *r) {
    return r->spare_name ? r->spare_name : r->name;
}

static enum move_rc put_into_box(struct retire *r) {
    if (mkdirat(r->spare_dir, r->old, 0700) < 0)
        return refused(r);
    r->box = open_box(r->spare_dir, r->old);
    if (r->box < 0)
        return refused(r);
    errno = EWOULDBLOCK; /* ours was removed as left behind, and this is somebody else's */
    if (is_full(r->box, r->old))
        return refused(r);
    if (renameat(r->spare_dir, path_leaf(spare_name(r)), r->box, r->old) == 0)
        return MOVE_OK;
    enum move_rc rc = refused(r);
    unlinkat(r->spare_dir, r->old, AT_REMOVEDIR);
    return rc;
}

/* Gives what stands under one name another one, replacing nothing. 0 or -1 with errno; EOPNOTSUPP:
 * the file system has no way to do it. */
static int rename_safely(int from_dir, const char *from, int to_dir, const char *to) {
    if (sys_rename_noreplace(from_dir, from, to_dir, to) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -1;
    if (linkat(from_dir, from, to_dir, to, 0) == 0)
        return unlinkat(from_dir, from, 0);
    if (errno == EPERM || errno == ENOSYS)
        errno = EOPNOTSUPP;
    return -1;
}

/* What an attempt that was killed left under the private name: `again` says that there is
 * something to judge. */
static enum move_rc find_left(struct retire *r) {
    struct stat st;
    r->again = fstatat(r->spare_dir, r->old, &st, AT_SYMLINK_NOFOLLOW) == 0;
    if (!r->again || !S_ISDIR(st.st_mode))
        return MOVE_OK;
    r->box = open_box(r->spare_dir, r->old);
    if (r->box < 0)
        return refused(r);
    r->again = is_full(r->box, r->old);
    if (r->again)
        return MOVE_OK;
    int rc = unlinkat(r->spare_dir, r->old, AT_REMOVEDIR);
    enum move_rc removed = rc < 0 ? refused(r) : MOVE_OK;
    path_close(&r->box);
    return removed;
}

/* ---- the checks ---- */

/* The descriptor of this process that holds the lock on that inode, or -1. */
static int known_fd(const struct retire *r, const struct stat *st) {
    if (r->move && r->move->src_fd >= 0 && file_same_inode(st, &r->move->src))
        return r->move->src_fd;
    if (r->move && r->move->dst_fd >= 0 && file_same_inode(st, &r->move->dst))
        return r->move->dst_fd;
    return -1;
}

/* Whether `a` was last written to after `b` was. */
static bool is_later(const struct file_id *a, const struct file_id *b) {
    return a->modified_s > b->modified_s ||
           (a->modified_s == b->modified_s && a->modified_ns > b->modified_ns);
}

/*
 * Whether the copy at hand is, untouched, what was copied, and the authoritative one is what was
 * made of it: as long as then, or written to since, which is its owner's to do. Only the process
 * that moved it knows that it was whole; others compare, unless it was written to.
 */
static bool is_as_moved(const struct retire *r, const struct file_id *auth,
                        const struct file_id *spare) {
    const struct file_id *made = r->made;
    if (!made || !r->was || !file_id_same(spare, r->was) || auth->dev != made->dev ||
        auth->ino != made->ino)
        return false;
    return is_later(auth, made) || (r->move && auth->bytes == made->bytes);
}

/* What it means that the copies differ: they did not when one was made of the other. What is as it
 * was made then did not change, so the other one did. One that is older than what was copied was
 * not written to, it came back, from a backup or a snapshot: then the authoritative copy may be the
 * only one of what was written last, and a person must say. */
static enum move_rc judge_difference(const struct retire *r, const struct file_id *auth,
                                     const struct file_id *spare) {
    bool kept = r->made && file_id_same(auth, r->made);
    return kept && r->was && !is_later(r->was, spare) ? MOVE_NEWER : MOVE_CHANGED;
}

/* The authoritative copy was written to since, and is the beginning of the one at hand: another
 * program that copies into it may be at it yet, or died of it. Its owner's work is anything else.
 */
static enum move_rc judge_shorter(struct retire *r, int spare_fd, int fd, const struct stat *st) {
    if (writers_by_lease(fd) == 1)
        return MOVE_BUSY;
    int same = file_identical(spare_fd, fd, (uint64_t)st->st_size, r->tick, r->ctx);
    return same == 1 ? MOVE_CHANGED : same == 0 ? MOVE_OK : MOVE_IO;
}

/* Whether the authoritative copy `fd` may take the place of the one at hand. */
static enum move_rc compare(struct retire *r, int spare_fd, const struct stat *spare, int fd,
                            const struct stat *st) {
    r->one_file = file_same_inode(st, spare);
    if (r->one_file) /* it needs a name that stays */
        return st->st_nlink > 1 ? MOVE_OK : MOVE_ALIAS;
    struct file_id auth_id = file_id_of(st), spare_id = file_id_of(spare);
    bool stale = r->stale && file_id_same(&spare_id, r->stale) && !is_later(&spare_id, &auth_id);
    if (stale)
        return MOVE_OK;
    if (is_as_moved(r, &auth_id, &spare_id))
        return st->st_size < spare->st_size ? judge_shorter(r, spare_fd, fd, st) : MOVE_OK;
    int listed = file_is_listed(r->auth_dir, path_leaf(r->name));
    if (listed != 1)
        return listed == 0 ? MOVE_CHANGED : MOVE_IO;
    int same = st->st_size == spare->st_size
                   ? file_identical(spare_fd, fd, (uint64_t)st->st_size, r->tick, r->ctx)
                   : 0;
    if (same == 0)
        return judge_difference(r, &auth_id, &spare_id);
    return same == 1 && fsync(fd) == 0 ? MOVE_OK : MOVE_IO;
}

/* Whether what is done to the copy at hand would be done to the authoritative one: then both are
 * one file, however many names and numbers it has. What this process itself moved had no twin when
 * it began, and its directories are enough. */
static enum move_rc check_apart(struct retire *r, const char *leaf) {
    int shows = r->move && r->apart ? alias_shows_once(r->apart, r->spare_dir, r->auth_dir, leaf)
                                    : alias_shows(r->spare_dir, r->auth_dir, leaf);
    if (shows >= 0)
        return shows ? MOVE_ALIAS : MOVE_OK;
    r->error = -shows;
    return file_classify(-shows) == MOVE_MISSING ? MOVE_CHANGED : MOVE_IO;
}

/* Whether the authoritative copy stands, whole, by itself, and holds what the spare `leaf` holds;
 * once that was renamed, by what its file system says now, not by what is remembered from before.
 */
static enum move_rc check_authority(struct retire *r, int spare_fd, const struct stat *spare,
                                    const char *leaf) {
    struct stat st = {0};
    int fd = -1;
    enum move_rc rc = check_apart(r, leaf);
    if (rc != MOVE_OK)
        return rc;
    bool renamed = leaf != path_leaf(r->name);
    rc = renamed && !r->auth_local ? file_open_afresh(r->auth_dir, path_leaf(r->name), &fd, &st)
                                   : file_open_regular(r->auth_dir, path_leaf(r->name), &fd, &st);
    r->alone = rc == MOVE_MISSING;
    if (rc == MOVE_OK)
        rc = compare(r, spare_fd, spare, fd, &st);
    if (rc != MOVE_OK)
        r->error = rc == MOVE_IO ? errno : 0;
    path_close(&fd);
    return rc;
}

static enum move_rc put_back(struct retire *r, enum move_rc why) {
    r->kept = rename_safely(old_dir(r), r->old, r->spare_dir, path_leaf(spare_name(r))) < 0;
    if (r->box >= 0 && !r->kept)
        unlinkat(r->spare_dir, r->old, AT_REMOVEDIR);
    else if (r->box >= 0)
        fsync(r->box);
    fsync(r->spare_dir);
    if (r->own >= 0) /* in user space the directory's sync is worth nothing (move_sync) */
        fsync(r->own);
    path_close(&r->own);
    return why;
}

/* Nobody can open it by its name any more. Who did before, and may write yet, would be told that it
 * is durable: into a file that is about to go. Nor must it have been written to since it `was`
 * looked at and compared. */
static enum move_rc check_quiet(struct retire *r, const struct stat *was) {
    struct stat st;
    if (writers_seen(r->own, r->spare_local))
        return MOVE_BUSY;
    if (sys_stat_fresh(r->own, &st) < 0) {
        r->error = errno;
        return MOVE_IO;
    }
    struct file_id now_id = file_id_of(&st), was_id = file_id_of(was);
    return file_id_same(&now_id, &was_id) ? MOVE_OK : MOVE_BUSY; /* to be looked at again */
}

/*
 * Whether somebody writes who opened it by the name that it had before. Where the private name had
 * to be given by a link, a file system in user space has another inode for it, of the same number
 * or not, and only what was opened before the link knows of the writers.
 */
static bool written_by_its_old_name(const struct retire *r) {
    return (r->own >= 0 && writers_seen(r->own, r->spare_local)) ||
           (r->move && r->move->src_fd >= 0 && writers_seen(r->move->src_fd, r->spare_local));
}

/* The copy at hand, as file_open_regular; what is told of it is what its file system says now. */
static enum move_rc open_copy(const struct retire *r, int dir, const char *leaf, int *fd,
                              struct stat *st) {
    enum move_rc rc = file_open_regular(dir, leaf, fd, st);
    return rc == MOVE_OK && !r->spare_local && sys_stat_fresh(*fd, st) < 0 ? MOVE_IO : rc;
}

/* Judges what stands under the private name; what is not to go, or not yet, is put back: it may
 * have become the content, or be another file that took the name a moment ago. */
static enum move_rc judge(struct retire *r) {
    struct stat st = {0}, seen;
    int fd = -1;
    enum move_rc rc = open_copy(r, old_dir(r), r->old, &fd, &st);
    if (rc != MOVE_OK)
        r->error = errno;
    if (rc == MOVE_MISSING)
        return rc; /* somebody took it back */
    if (r->own >= 0 && fd >= 0 && fstat(r->own, &seen) == 0 && file_same_inode(&seen, &st)) {
        path_close(&fd); /* the other one has the lock */
    } else {
        if (rc == MOVE_OK && !r->spare_local && written_by_its_old_name(r))
            rc = MOVE_BUSY;
        path_close(&r->own);
        r->own = fd;
        if (rc == MOVE_OK && known_fd(r, &st) < 0 && flock(fd, LOCK_EX | LOCK_NB) < 0 &&
            errno == EWOULDBLOCK)
            rc = MOVE_BUSY;
    }
    if (rc == MOVE_OK)
        rc = check_authority(r, r->own, &st, r->box >= 0 ? NULL : r->old);
    if (rc == MOVE_MISSING)
        rc = MOVE_CHANGED; /* the authoritative copy is not there: keep what we have */
    if (rc == MOVE_OK && !r->one_file)
        rc = check_quiet(r, &st);
    return rc == MOVE_OK ? MOVE_OK : put_back(r, rc);
}

/* Whether what has the name is still what this process moved. */
static bool is_still_moved(const struct retire *r) {
    struct stat st;
    const struct move *m = r->move;
    return m && fstatat(r->spare_dir, path_leaf(spare_name(r)), &st, AT_SYMLINK_NOFOLLOW) == 0 &&
           file_same_inode(&st, &m->src) &&
           (m->linked || file_unchanged(&st, &m->src)); /* a link changes the ctime itself */
}

/* Whether what has the name is ours to take away, and nobody writes to it, before anything is
 * touched: where a name can only be given by a link, the file comes back as another one to those
 * who look for writers. Its lock is kept from here on: while we are stopped, nobody can make it the
 * content again. */
static enum move_rc look_first(struct retire *r) {
    struct stat st = {0};
    if (is_still_moved(r)) /* a link is the file itself: who writes to one writes to both */
        return !r->spare_local && !r->move->linked && writers_by_lease(r->move->src_fd) == 1
                   ? MOVE_BUSY
                   : MOVE_OK;
    enum move_rc rc = open_copy(r, r->spare_dir, path_leaf(spare_name(r)), &r->own, &st);
    if (rc != MOVE_OK) {
        r->error = rc == MOVE_MISSING ? 0 : errno;
        return rc;
    }
    if (known_fd(r, &st) < 0 && flock(r->own, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
        return MOVE_BUSY;
    struct file_id id = file_id_of(&st);
    if (r->only_stale && !file_id_same(&id, r->stale)) {
        path_close(&r->own);
        return MOVE_MISSING; /* not the one that is out of date */
    }
    rc = check_authority(r, r->own, &st, path_leaf(spare_name(r)));
    return rc == MOVE_MISSING ? MOVE_CHANGED : rc;
}

static enum move_rc rename_and_judge(struct retire *r) {
    enum move_rc rc = MOVE_OK;
    if (rename_safely(r->spare_dir, path_leaf(spare_name(r)), r->spare_dir, r->old) < 0)
        rc = errno == EOPNOTSUPP ? put_into_box(r) : refused(r);
    return rc == MOVE_OK ? judge(r) : rc;
}

static enum move_rc open_dirs(struct retire *r) {
    r->spare_dir = path_dir(r->dirs, r->spare_level, spare_name(r), -1);
    if (r->spare_dir < 0) {
        r->error = errno;
        return file_classify(errno); /* MOVE_MISSING: nothing can stand there */
    }
    r->auth_dir = path_dir(r->dirs, r->auth_level, r->name, -1);
    r->spare_local = path_is_local(r->dirs, r->spare_dir);
    r->auth_local = r->auth_dir >= 0 && path_is_local(r->dirs, r->auth_dir);
    if (r->auth_dir >= 0)
        return MOVE_OK;
    r->error = errno;
    enum move_rc rc = file_classify(errno);
    return rc == MOVE_MISSING ? MOVE_CHANGED : rc; /* no authoritative copy: keep what we have */
}

enum move_rc retire_begin(struct retire *r) {
    r->spare_dir = r->auth_dir = r->box = r->own = -1;
    r->removed = r->kept = r->again = r->one_file = r->alone = false;
    r->error = 0;
    if (r->move) {
        r->ids[0] = file_id_of(&r->move->src);
        r->ids[1] = file_id_of(&r->move->dst);
        r->was = &r->ids[0];
        r->made = &r->ids[1];
    }
    snprintf(r->old, sizeof r->old, NAME_PRIVATE_PREFIX "-old.%" PRIu64, r->cid);
    enum move_rc rc = open_dirs(r);
    if (rc != MOVE_OK)
        return rc == MOVE_MISSING ? MOVE_OK : rc;
    if (r->spare_dir == r->auth_dir)
        return MOVE_ALIAS;
    if (r->sweep)
        alias_sweep(r->spare_dir, NULL);
    (void)file_drop_temp(r->spare_dir, r->cid, r->move ? &r->move->src : NULL);
    rc = find_left(r);
    if (rc != MOVE_OK)
        return rc;
    if (r->again)
        return judge(r);
    rc = look_first(r);
    if (rc == MOVE_MISSING)
        return MOVE_OK;
    return rc == MOVE_OK ? rename_and_judge(r) : rc;
}

/* What is unlinked while it is open keeps a name in its folder on file systems in user space
 * (`.fuse_hidden...`), which then could not go. */
static void close_all(struct retire *r) {
    path_close(&r->own);
    if (r->move)
        path_close(&r->move->src_fd);
}

enum move_rc retire_end(struct retire *r, int confirmed) {
    if (confirmed != 1)
        return put_back(r, confirmed == 0 ? MOVE_CHANGED : MOVE_BUSY);
    if (r->box >= 0) /* its lock is enough */
        close_all(r);
    r->removed = unlinkat(old_dir(r), r->old, 0) == 0;
    enum move_rc rc = r->removed ? MOVE_OK : MOVE_IO;
    if (rc != MOVE_OK)
        r->error = errno;
    else if (r->box >= 0 && unlinkat(r->spare_dir, r->old, AT_REMOVEDIR) < 0)
        rc = refused(r);
    path_close(&r->own);
    return rc;
}

void retire_release(struct retire *r) {
    path_close(&r->own);
    path_close(&r->box);
    r->spare_dir = r->auth_dir = -1;
}

/* ---- leftovers in the content's own level ---- */

/* Judges it, and leaves it open in *fd, locked while it is open; a box in *box, too. */
static enum retire_left look_at_left(int dir, const char *old, const char *leaf, int *box,
                                     int *fd) {
    struct stat own = {0}, st = {0};
    int content = -1, same;
    enum retire_left is = RETIRE_LEFT_UNCLEAR;
    if (fstatat(dir, old, &own, AT_SYMLINK_NOFOLLOW) < 0)
        return is;
    if (S_ISDIR(own.st_mode) && (*box = open_box(dir, old)) < 0)
        return is;
    if (*box >= 0 && !is_full(*box, old))
        return RETIRE_LEFT_EMPTY;
    if (file_open_regular(*box >= 0 ? *box : dir, old, fd, &own) != MOVE_OK ||
        flock(*fd, LOCK_EX | LOCK_NB) < 0)
        return is;
    enum move_rc rc = file_open_regular(dir, leaf, &content, &st);
    if (rc == MOVE_MISSING) {
        is = RETIRE_LEFT_ALONE;
    } else if (rc == MOVE_OK) {
        same = st.st_size == own.st_size
                   ? file_identical(*fd, content, (uint64_t)st.st_size, NULL, NULL)
                   : 0;
        bool one = file_same_inode(&st, &own) && st.st_nlink < 2; /* seen another way */
        is = same == 0 ? RETIRE_LEFT_DIFFERENT
             : same == 1 && !one && !writers_seen(*fd, false) && fsync(content) == 0
                 ? RETIRE_LEFT_SAME
                 : RETIRE_LEFT_UNCLEAR;
    }
    path_close(&content);
    return is;
}

enum retire_left retire_judge_left(int dir, const char *old, const char *leaf) {
    int box = -1, fd = -1;
    enum retire_left is = look_at_left(dir, old, leaf, &box, &fd);
    path_close(&fd);
    path_close(&box);
    return is;
}

bool retire_mend_left(int dir, const char *old, const char *leaf, enum retire_left was) {
    int box = -1, fd = -1, rc = -1;
    if (look_at_left(dir, old, leaf, &box, &fd) == was) {
        int at = box >= 0 ? box : dir;
        if (box >= 0)
            path_close(&fd);
        if (was == RETIRE_LEFT_ALONE)
            rc = rename_safely(at, old, dir, leaf);
        else if (was == RETIRE_LEFT_SAME)
            rc = unlinkat(at, old, 0);
        else if (was == RETIRE_LEFT_EMPTY)
            rc = 0;
    }
    if (rc == 0 && box >= 0)
        rc = unlinkat(dir, old, AT_REMOVEDIR);
    bool mended = rc == 0 && fsync(dir) == 0;
    path_close(&fd);
    path_close(&box);
    return mended;
}
