#include "fs/move.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/name.h"
#include "base/sys.h"
#include "fs/alias.h"
#include "fs/path.h"
#include "fs/writers.h"

enum {
    BUFFER_BYTES =
        512 * 1024, /* past it copying gets no faster, below it slower on spinning disks */
    CHUNK_BYTES = 8 * 1024 * 1024, /* between two ticks: some 100 ms on a slow disk */
    SMALL_BYTES = 64 * 1024,       /* below it advice costs more than it gives */
};
#ifndef FICLONE
#define FICLONE _IOW(0x94, 9, int) /* linux/fs.h */
#endif

/* Whether a copy with holes is to be made. Blocks behind the end (fallocate(2), KEEP_SIZE) and
 * those of attributes may hide them. */
static bool sparse(const struct stat *st) {
    return (uint64_t)st->st_blocks * 512 < (uint64_t)st->st_size;
}

/* What the copy's data will take at most, in whole blocks of its file system. */
static uint64_t room_needed(const struct move *m, const struct statvfs *vfs) {
    uint64_t size = (uint64_t)m->src.st_size, block = vfs->f_frsize ? vfs->f_frsize : 1;
    if (sparse(&m->src))
        size = (uint64_t)m->src.st_blocks * 512;
    return (size + block - 1) / block * block;
}

/* Keeps, for a person, what is needed and what there is, and whether anything else could fit. */
static void look_at_room(struct move *m) {
    struct statvfs vfs = {0};
    int rc = fstatvfs(m->dst_dir, &vfs);
    m->need_bytes = room_needed(m, &vfs);
    m->free_bytes = file_free_bytes(&vfs);
    m->no_inodes = rc == 0 && vfs.f_files > 0 && vfs.f_favail == 0;
    m->full = m->error == ENOSPC &&
              (m->no_inodes || m->free_bytes < SMALL_BYTES || m->need_bytes <= SMALL_BYTES);
}

static enum move_rc failed(struct move *m, const char *step) {
    m->error = errno;
    m->step = step;
    enum move_rc rc = file_classify(m->error);
    if (rc == MOVE_NOSPACE)
        look_at_room(m);
    return rc == MOVE_MISSING ? MOVE_IO : rc; /* MISSING speaks of the source alone */
}

/* What came of fs/meta, whose words for it are its own. */
static enum move_rc of_meta(struct move *m, enum move_rc rc) {
    if (rc == MOVE_OK)
        return rc;
    m->error = m->meta.error;
    m->step = m->meta.what;
    if (rc == MOVE_NOSPACE)
        look_at_room(m);
    return rc;
}

/* As failed, at a name in the destination's folder: that may be no more. */
static enum move_rc failed_in_folder(struct move *m, const char *step) {
    struct stat st;
    int error = errno;
    bool gone = error == ENOENT && fstat(m->dst_dir, &st) == 0 && st.st_nlink == 0;
    errno = error;
    enum move_rc rc = failed(m, step);
    return gone ? MOVE_GONE : rc;
}

/* ---- begin ---- */

/* Further names are ours when an earlier attempt linked the file or renamed it for retirement. */
static bool names_are_ours(struct move *m, int dst_level) {
    struct stat st;
    char old[40];
    nlink_t ours = 1;
    int dir = path_open_parent(dst_level, m->name);
    if (dir >= 0 && fstatat(dir, m->leaf, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        file_same_inode(&st, &m->src))
        ours++;
    snprintf(old, sizeof old, NAME_PRIVATE_PREFIX "-old.%" PRIu64, m->cid);
    if (dir >= 0 && fstatat(dir, old, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        file_same_inode(&st, &m->src))
        ours++;
    if (fstatat(m->src_dir, old, &st, AT_SYMLINK_NOFOLLOW) == 0 && file_same_inode(&st, &m->src))
        ours++;
    path_close(&dir);
    return m->src.st_nlink == ours;
}

/* A retirement that was killed had given the content's name at the destination a private one: it is
 * a copy again, to be adopted if it is the same. Nothing is replaced; mostly there is none. */
static void take_back(struct move *m) {
    char old[40];
    struct stat st;
    snprintf(old, sizeof old, NAME_PRIVATE_PREFIX "-old.%" PRIu64, m->cid);
    if (fstatat(m->dst_dir, old, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
        (void)sys_rename_noreplace(m->dst_dir, old, m->dst_dir, m->leaf);
}

/* Its directory at the destination could not be opened, or not be made as the source's is. */
static enum move_rc no_folder(struct move *m, int dst_level, const struct path_dirs *dirs) {
    enum move_rc rc;
    m->dst_dir = dst_level; /* for a look at its room */
    if (dirs->meta_rc != MOVE_OK) {
        m->meta = dirs->meta;
        rc = of_meta(m, dirs->meta_rc);
    } else {
        rc = failed(m, m->step);
    }
    m->dst_dir = -1;
    return rc;
}

enum move_rc move_begin(struct move *m, uint64_t cid, int src_level, int dst_level,
                        const char *name, struct path_dirs *dirs) {
    *m = (struct move){.cid = cid,
                       .name = name,
                       .leaf = path_leaf(name),
                       .src_dir = -1,
                       .dst_dir = -1,
                       .src_fd = -1,
                       .dst_fd = -1,
                       .step = "open the source"};
    m->src_dir = path_dir(dirs, src_level, name, -1);
    if (m->src_dir < 0) {
        (void)failed(m, "open the source's directory");
        return file_classify(m->error);
    }
    enum move_rc rc = file_open_regular(m->src_dir, m->leaf, &m->src_fd, &m->src);
    if (rc != MOVE_OK) {
        m->error = errno;
        return rc;
    }
    m->step = "lock the source";
    if (flock(m->src_fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
        return MOVE_BUSY;
    if (m->src.st_nlink > 1 && file_drop_temp(m->src_dir, m->cid, &m->src) &&
        fstat(m->src_fd, &m->src) < 0)
        return failed(m, "look at the source");
    if (m->src.st_nlink > 1 && !names_are_ours(m, dst_level))
        return MOVE_HARDLINKS;
    if (writers_by_lease(m->src_fd) == 1)
        return MOVE_BUSY;
    m->step = "open the destination's directory";
    m->dst_dir = path_dir(dirs, dst_level, name, src_level);
    if (m->dst_dir < 0)
        return no_folder(m, dst_level, dirs);
    take_back(m);
    struct stat st;
    if (fstat(m->dst_dir, &st) < 0)
        return failed(m, m->step);
    m->same_device = st.st_dev == m->src.st_dev;
    return m->src_dir == m->dst_dir ? MOVE_ALIAS : MOVE_OK;
}

void move_sweep(struct move *m) {
    alias_sweep(m->src_dir);
    alias_sweep(m->dst_dir);
}

/* Where locks do not reach from host to host, the next holder of our claim may have taken the name
 * for one that was left, and be writing a file of its own under it. */
static bool temp_is_ours(const struct move *m) {
    struct stat own, st;
    return fstat(m->dst_fd, &own) == 0 &&
           fstatat(m->dst_dir, m->temp_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
           file_same_inode(&own, &st);
}

void move_release(struct move *m) {
    if (m->temp_name[0] && temp_is_ours(m))
        unlinkat(m->dst_dir, m->temp_name, 0); /* our own staged copy, never a content's name */
    m->temp_name[0] = '\0';
    path_close(&m->src_fd);
    path_close(&m->dst_fd);
    m->src_dir = m->dst_dir = -1;
}

/* ---- verify ---- */

/* What is durable at the destination, as the device has it. */
static enum move_rc verify_copy(struct move *m, move_tick_fn *tick, void *ctx) {
    posix_fadvise(m->dst_fd, 0, 0, POSIX_FADV_DONTNEED); /* clean pages go: read the device */
    int same = file_identical(m->src_fd, m->dst_fd, (uint64_t)m->src.st_size, tick, ctx);
    if (same == 1)
        return MOVE_OK;
    if (same < 0)
        return errno == ECANCELED ? MOVE_ABANDONED : failed(m, "verify the copy");
    errno = EIO;
    return failed(m, "verify the copy");
}

/* ---- adopt ---- */

/* A probe changed the source's change time: it is to be the last that does. 0 or -errno. */
static int note_probed(struct move *m) {
    struct stat st;
    if (fstat(m->src_fd, &st) < 0)
        return -errno;
    struct file_id was = file_id_of(&m->src), is = file_id_of(&st);
    if (file_id_same(&was, &is))
        m->src = st;
    return 0;
}

/*
 * Whether what has the name at the destination, and holds the same, is a copy of its own. It may be
 * the source, seen another way: then there is but one, and would be taken away as the old one. A
 * further name of the source is ours, and counts as a link of it; a mount that shows the file under
 * another name does not. Where case does not count it may be another content's file.
 */
static enum move_rc is_own_copy(struct move *m, const struct stat *st, bool same_file) {
    int listed = file_is_listed(m->dst_dir, m->leaf);
    if (listed == 0)
        return MOVE_CONFLICT;
    if (same_file)
        return st->st_nlink > 1 ? MOVE_OK : MOVE_ALIAS;
    int shows = alias_shows(m->src_dir, m->dst_dir, m->leaf);
    if (shows == 0)
        shows = alias_shows(m->dst_dir, m->src_dir, m->leaf);
    if (shows == 0)
        shows = note_probed(m);
    if (shows == 1)
        return MOVE_ALIAS;
    errno = shows < 0 ? -shows : errno;
    return shows == 0 && listed == 1 ? MOVE_OK
                                     : failed(m, "look whether both levels show the same files");
}

/* What stands under the name at the destination: MOVE_OK with `adopted`, MOVE_MISSING, or
 * MOVE_CONFLICT. */
static enum move_rc adopt(struct move *m, move_tick_fn *tick, void *ctx) {
    struct stat st = {0};
    int fd = -1;
    enum move_rc rc = file_open_regular(m->dst_dir, m->leaf, &fd, &st);
    if (rc == MOVE_NOT_REGULAR)
        return MOVE_CONFLICT;
    if (rc != MOVE_OK)
        return rc == MOVE_MISSING || rc == MOVE_BUSY
                   ? rc
                   : failed(m, "open what stands at the destination");
    bool same_file = file_same_inode(&st, &m->src);
    int same = same_file;
    if (!same_file && st.st_size == m->src.st_size)
        same = file_identical(m->src_fd, fd, (uint64_t)st.st_size, tick, ctx); /* < 0: not known */
    if (same != 1)
        rc = same == 0            ? MOVE_CONFLICT
             : errno == ECANCELED ? MOVE_ABANDONED
                                  : failed(m, "compare with the destination");
    else
        rc = is_own_copy(m, &st, same_file);
    if (rc != MOVE_OK) {
        close(fd);
        return rc;
    }
    if (!same_file && flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK) {
        close(fd);
        return MOVE_BUSY;
    }
    path_close(&m->dst_fd);
    m->dst_fd = fd;
    m->dst = st;
    m->adopted = true;
    m->linked = same_file;
    (void)file_drop_temp(m->dst_dir, m->cid, &st); /* published from it, then killed */
    /* What was compared came from memory: if it cannot be written now, a second fsync would say
     * that it was, and the source would go. */
    if (fsync(fd) < 0) {
        (void)failed(m, "make the destination durable");
        return MOVE_UNDURABLE;
    }
    if (fsync(m->dst_dir) < 0)
        return failed(m, "make the destination's name durable");
    return m->verify && !same_file ? verify_copy(m, tick, ctx) : MOVE_OK;
}

/* ---- copy ---- */

static enum move_rc open_temp_name(struct move *m) {
    file_temp_name(m->temp_name, m->cid);
    for (int attempt = 0; attempt < 2; attempt++) {
        m->dst_fd = openat(m->dst_dir, m->temp_name,
                           O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (m->dst_fd >= 0)
            return MOVE_OK;
        if (errno != EEXIST)
            break;
        if (!file_drop_temp(m->dst_dir, m->cid, NULL)) {
            m->temp_name[0] = '\0';
            return MOVE_BUSY;
        }
    }
    m->temp_name[0] = '\0';
    return failed_in_folder(m, "make a temporary file");
}

static enum move_rc open_unnamed(struct move *m) {
    enum move_rc rc = MOVE_OK;
    if (!m->force_temp_name)
        m->dst_fd = openat(m->dst_dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (m->dst_fd < 0 && (m->force_temp_name || errno == EOPNOTSUPP || errno == EISDIR ||
                          errno == EINVAL || errno == ENOENT))
        rc = open_temp_name(m);
    else if (m->dst_fd < 0)
        rc = failed_in_folder(m, "make a temporary file");
    if (rc == MOVE_OK)
        flock(m->dst_fd, LOCK_EX | LOCK_NB);
    return rc;
}

/* Room for the data, before the first byte is written. Preallocation would fill holes, so only
 * files without any get it; file systems that cannot simply go on. One without blocks does not tell
 * (tmpfs without a size, FUSE). */
static enum move_rc reserve(struct move *m) {
    struct statvfs vfs;
    if (m->src.st_size < SMALL_BYTES)
        return MOVE_OK;
    if (fstatvfs(m->dst_fd, &vfs) == 0 && vfs.f_blocks > 0 &&
        file_free_bytes(&vfs) < room_needed(m, &vfs)) {
        errno = ENOSPC;
        return failed(m, "reserve space");
    }
    if (!sparse(&m->src) && fallocate(m->dst_fd, 0, 0, m->src.st_size) < 0 &&
        (errno == ENOSPC || errno == EDQUOT || errno == EFBIG))
        return failed(m, "reserve space");
    return MOVE_OK;
}

struct copy {
    struct move *m;
    char *buffer; /* NULL while the kernel copies */
    move_tick_fn *tick;
    void *ctx;
    uint64_t done;
};

/* One short run in user space: at most BUFFER_BYTES. */
static ssize_t copy_by_hand(struct copy *c, off_t at, size_t n) {
    size_t most = c->m->src.st_size < BUFFER_BYTES ? (size_t)c->m->src.st_size : BUFFER_BYTES;
    if (!c->buffer && !(c->buffer = malloc(most)))
        return -1;
    n = n < most ? n : most;
    ssize_t got = file_read_full(c->m->src_fd, c->buffer, n, at);
    for (ssize_t put = 0; put < got;) {
        ssize_t k = pwrite(c->m->dst_fd, c->buffer + put, (size_t)(got - put), at + put);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return -1;
        put += k;
    }
    return got;
}

static ssize_t copy_some(struct copy *c, off_t at, size_t n) {
    if (!c->buffer) {
        off_t in = at, out = at;
        ssize_t k = copy_file_range(c->m->src_fd, &in, c->m->dst_fd, &out, n, 0);
        if (k > 0)
            return k;
        if (k < 0 && errno != EXDEV && errno != ENOSYS && errno != EOPNOTSUPP && errno != EINVAL &&
            errno != EPERM && errno != EBADF && errno != ETXTBSY && errno != EINTR)
            return -1;
        if (k < 0 && errno == EINTR)
            return -2;
    }
    return copy_by_hand(c, at, n); /* and 0 before the end is settled by reading */
}

/* Begins to write out a piece of the copy, or waits for it. What cannot be had here is left to
 * fsync; any error else is that of the data (a disk has many names for it), and who waited for it
 * once has taken it off the descriptor: the fsync would not tell. */
static enum move_rc write_out(struct move *m, off_t at, off_t n, unsigned flags) {
    bool good = sync_file_range(m->dst_fd, at, n, flags) == 0 || errno == ENOSYS || errno == EPERM;
    return good ? MOVE_OK : failed(m, "write the copy");
}

static enum move_rc copy_segment(struct copy *c, off_t from, off_t to) {
    struct move *m = c->m;
    off_t flushed = from, chunk = m->chunk_bytes ? (off_t)m->chunk_bytes : CHUNK_BYTES;
    while (from < to) {
        size_t n = to - from < chunk ? (size_t)(to - from) : (size_t)chunk;
        ssize_t k = copy_some(c, from, n);
        if (k == -2)
            continue;
        if (k < 0)
            return failed(m, "copy");
        if (k == 0)
            return MOVE_CHANGED; /* it ends before its size: truncated under way */
        from += k;
        c->done += (uint64_t)k;
        if (from - flushed >= CHUNK_BYTES) { /* write out as we go, so the final fsync is short */
            enum move_rc rc = write_out(m, flushed, from - flushed, SYNC_FILE_RANGE_WRITE);
            if (rc != MOVE_OK)
                return rc;
            flushed = from;
        }
        if (c->tick && c->tick(c->ctx, c->done, (uint64_t)m->src.st_size) != 0)
            return MOVE_ABANDONED;
    }
    return MOVE_OK;
}

static enum move_rc copy_data(struct copy *c) {
    struct move *m = c->m;
    off_t size = m->src.st_size;
    if (!sparse(&m->src))
        return copy_segment(c, 0, size);
    for (off_t at = 0; at < size;) {
        off_t data = lseek(m->src_fd, at, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            break; /* a hole up to the end */
        off_t hole = data < 0 ? -1 : lseek(m->src_fd, data, SEEK_HOLE);
        if (data < 0 || hole < 0) { /* this file system does not tell: copy all that is left */
            data = at;
            hole = size;
        }
        enum move_rc rc = copy_segment(c, data, hole < size ? hole : size);
        if (rc != MOVE_OK)
            return rc;
        at = hole;
    }
    return ftruncate(m->dst_fd, size) < 0 ? failed(m, "set the size") : MOVE_OK;
}

static enum move_rc copy_metadata(struct move *m) {
    m->meta.to = m->dst_fd;
    m->meta.shared = false;
    return of_meta(m, meta_copy(&m->meta));
}

/* By the descriptor and by the name: neither written to nor replaced while we read. */
static enum move_rc check_source(struct move *m) {
    struct stat by_fd, by_name;
    if (fstat(m->src_fd, &by_fd) < 0)
        return failed(m, "look at the source again");
    if (fstatat(m->src_dir, m->leaf, &by_name, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? MOVE_MISSING : failed(m, "look at the source again");
    return file_unchanged(&by_fd, &m->src) && file_unchanged(&by_name, &m->src) ? MOVE_OK
                                                                                : MOVE_CHANGED;
}

/* A reflink takes no room for the data; else that is looked for first. */
static enum move_rc copy_content(struct move *m, move_tick_fn *tick, void *ctx) {
    struct copy c = {.m = m, .tick = tick, .ctx = ctx};
    bool large = m->src.st_size >= SMALL_BYTES;
    if (large && ioctl(m->dst_fd, FICLONE, m->src_fd) == 0)
        return MOVE_OK;
    enum move_rc rc = reserve(m);
    if (rc == MOVE_OK && large)
        posix_fadvise(m->src_fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    if (rc == MOVE_OK)
        rc = copy_data(&c);
    free(c.buffer);
    return rc;
}

static enum move_rc stage_copy(struct move *m, move_tick_fn *tick, void *ctx) {
    enum move_rc rc = open_unnamed(m);
    if (rc == MOVE_OK)
        rc = copy_content(m, tick, ctx);
    if (rc == MOVE_OK)
        rc = copy_metadata(m);
    return rc == MOVE_OK ? write_out(m, 0, 0, SYNC_FILE_RANGE_WRITE) : rc;
}

enum move_rc move_stage(struct move *m, move_tick_fn *tick, void *ctx) {
    m->meta = (struct meta){.from = m->src_fd, .st = &m->src};
    enum move_rc rc = of_meta(m, meta_look(&m->meta));
    if (rc == MOVE_OK)
        rc = adopt(m, tick, ctx);
    if (rc != MOVE_MISSING)
        return rc;
    if (!m->same_device || m->link_refused)
        return stage_copy(m, tick, ctx);
    m->linked = true;
    m->dst = m->src;
    return MOVE_OK;
}

/* ---- durability ---- */

enum move_rc move_drain(struct move *m, move_tick_fn *tick, void *ctx) {
    const unsigned all =
        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    if (m->adopted || m->linked)
        return MOVE_OK;
    for (off_t at = 0; at < m->src.st_size; at += CHUNK_BYTES) {
        enum move_rc rc = write_out(m, at, CHUNK_BYTES, all);
        if (rc != MOVE_OK)
            return rc;
        if (tick && tick(ctx, (uint64_t)m->src.st_size, (uint64_t)m->src.st_size) != 0)
            return MOVE_ABANDONED;
    }
    return MOVE_OK;
}

/* A file with holes is copied by what lseek(2) says of them, and nothing else of it is read. If the
 * copy came out smaller on the disk than the source, which other reasons may have, it is compared.
 */
static bool lacks_blocks(const struct move *m) {
    return sparse(&m->src) && m->dst.st_blocks < m->src.st_blocks;
}

/* What the destination really holds. The length is that of the source when all of it was copied. */
static enum move_rc check_copy(struct move *m) {
    if (fstat(m->dst_fd, &m->dst) < 0)
        return failed(m, "look at the copy");
    enum move_rc rc = of_meta(m, meta_check(&m->meta, &m->dst));
    if (rc != MOVE_OK)
        return rc;
    errno = EIO;
    return m->dst.st_size == m->src.st_size ? MOVE_OK : failed(m, "look at the copy");
}

enum move_rc move_flush(struct move *m, move_tick_fn *tick, void *ctx) {
    if (m->adopted) /* it was compared with the source, which may have been written to meanwhile */
        return m->linked ? MOVE_OK : check_source(m);
    if (fsync(m->linked ? m->src_fd : m->dst_fd) < 0) /* once: then the pages are marked clean */
        return failed(m, m->linked ? "make the source durable" : "make the copy durable");
    enum move_rc rc = m->linked ? MOVE_OK : check_copy(m);
    if (rc == MOVE_OK && !m->linked && (m->verify || lacks_blocks(m)))
        rc = verify_copy(m, tick, ctx);
    return rc == MOVE_OK ? check_source(m) : rc;
}

/* ---- publish ---- */

/* linkat(2) of an open file: by the descriptor where we may, else through /proc. */
static int link_fd(int fd, int dir, const char *leaf) {
    if (linkat(fd, "", dir, leaf, AT_EMPTY_PATH) == 0)
        return 0;
    if (errno != ENOENT && errno != EPERM && errno != EINVAL)
        return -1;
    char proc[40];
    snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd);
    return linkat(AT_FDCWD, proc, dir, leaf, AT_SYMLINK_FOLLOW);
}

/*
 * What stood there already gets the source's metadata, durably, before it is committed: now, when
 * the job is known to be ours still. Killed in between it is left with fewer rights, and no row
 * says that it is the content; the next attempt goes on from there.
 */
static enum move_rc own_adopted(struct move *m) {
    if (m->linked)
        return MOVE_OK;
    if (fstat(m->dst_fd, &m->dst) < 0) /* without the temporary name that it had */
        return failed(m, "look at the copy");
    m->meta.to = m->dst_fd;
    m->meta.shared = m->dst.st_nlink > 1;
    enum move_rc rc = of_meta(m, meta_copy(&m->meta));
    if (rc == MOVE_OK && m->meta.changed) {
        if (fsync(m->dst_fd) < 0) {
            (void)failed(m, "make the destination durable");
            return MOVE_UNDURABLE;
        }
        rc = check_copy(m);
    }
    return rc == MOVE_OK ? check_source(m) : rc;
}

enum move_rc move_publish(struct move *m, move_tick_fn *tick, void *ctx) {
    if (m->adopted)
        return own_adopted(m);
    if (m->temp_name[0] && !temp_is_ours(m))
        return MOVE_BUSY;
    int rc = m->temp_name[0] ? file_publish_temp(m->dst_dir, m->temp_name, m->leaf)
                             : link_fd(m->linked ? m->src_fd : m->dst_fd, m->dst_dir, m->leaf);
    if (rc < 0 && errno == EEXIST) {
        enum move_rc found = adopt(m, tick, ctx);
        if (found == MOVE_OK)
            found = own_adopted(m);
        return found == MOVE_MISSING && !m->adopted ? MOVE_BUSY : found;
    }
    if (rc < 0 && m->linked) {
        m->linked = false;
        m->link_refused = true;
        return MOVE_RESTAGE;
    }
    if (rc < 0 && (errno == ENOSYS || errno == EINVAL || errno == EOPNOTSUPP))
        return MOVE_UNSUPPORTED;
    if (rc < 0)
        return failed_in_folder(m, "publish");
    m->temp_name[0] = '\0';
    return MOVE_OK;
}

/* What a file system in user space says of its directories is not believed: some answer yes, and
 * pass nothing on (bindfs). The sync of a file that has its name by now brings the name along: the
 * file system below commits both together, and all that was done before, such as its folders. */
static int sync_behind_user_space(const struct move *m) {
    enum { FUSE = 0x65735546 }; /* linux/magic.h */
    struct statfs fs;
    if (fstatfs(m->dst_dir, &fs) < 0) /* not of the file: its first name is gone */
        return -1;
    return fs.f_type == FUSE ? fsync(m->linked ? m->src_fd : m->dst_fd) : 0;
}

enum move_rc move_recheck(struct move *m) {
    struct stat st;
    if (m->linked) /* both names are of one file: what is written to it is written to both */
        return MOVE_OK;
    if (fstat(m->dst_fd, &st) < 0)
        return failed(m, "look at the copy again");
    struct file_id now = file_id_of(&st), was = file_id_of(&m->dst);
    if (!file_id_same(&now, &was)) /* an adopted file may have a writer of its own */
        return MOVE_CHANGED;
    return writers_by_lease(m->src_fd) == 1 ? MOVE_BUSY : check_source(m);
}

void move_sync(struct move *const *moves, size_t n, enum move_rc *rc, file_between_fn *between,
               void *ctx) {
    int dirs[MOVE_TOGETHER_MAX] = {0}, errors[MOVE_TOGETHER_MAX];
    for (size_t i = 0; i < n; i++)
        dirs[i] = moves[i]->adopted ? -1 : moves[i]->dst_dir;
    file_sync_dirs(dirs, n, errors, between, ctx);
    for (size_t i = 0; i < n; i++) {
        struct move *m = moves[i];
        struct stat st;
        errno = errors[i];
        /* XFS syncs a directory with success after its log was shut down, and the name with it was
         * lost; looking at the file fails then. */
        bool good = !errors[i] && (m->adopted || sync_behind_user_space(m) == 0) &&
                    fstat(m->linked ? m->src_fd : m->dst_fd, &st) == 0;
        rc[i] = good ? MOVE_OK : failed(m, "make the new name durable");
    }
}
