/*
 * file: looking at regular files, and the one set of outcomes that everything in fs/ returns.
 */
#ifndef TIERD_FS_FILE_H
#define TIERD_FS_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>

enum move_rc {
    MOVE_OK,
    MOVE_MISSING,     /* the file is not there */
    MOVE_BAD_PATH,    /* a part of the path to it is a symbolic link, or no directory */
    MOVE_NOT_REGULAR, /* a directory, FIFO, device, socket or symbolic link */
    MOVE_CONFLICT,    /* another file has the name at the destination */
    MOVE_HARDLINKS,   /* the file has further names */
    MOVE_BUSY,        /* locked, or open for writing */
    MOVE_CHANGED,     /* it changed while it was copied */
    MOVE_NEWER,       /* it changed after it was copied: the copy is out of date */
    MOVE_NOSPACE,     /* the destination is full, or a quota is */
    MOVE_DENIED,      /* not allowed: owner, mode, read-only, immutable */
    MOVE_UNSUPPORTED, /* the file system can publish nothing without replacing */
    MOVE_RESTAGE,     /* a link was refused: stage again, it will copy */
    MOVE_ALIAS,       /* both levels show the same files */
    MOVE_ABANDONED,   /* the caller's tick said so */
    MOVE_UNDURABLE,   /* what stands at the destination could not be written to its disk */
    MOVE_IO,          /* any other error, see `error` */
    MOVE_UNKEPT,      /* its metadata cannot be kept at the destination (fs/meta) */
    MOVE_FIXED,       /* immutable or append-only: it could not go from where it is */
    MOVE_GONE,        /* its folder at the destination was taken away meanwhile */
};

/* One sentence for a person. */
const char *move_rc_text(enum move_rc rc);

/* Called between chunks; 0 to go on, else the move is abandoned. */
typedef int move_tick_fn(void *ctx, uint64_t done_bytes, uint64_t total_bytes);

/* The outcome that an errno stands for. */
enum move_rc file_classify(int error);

/* Opens a regular file for reading without ever opening anything else: a plain open of a FIFO
 * hangs, of a device has effects. MOVE_OK with *out and *st; MOVE_BUSY: somebody else has a lease
 * on it (fcntl(2), F_SETLEASE), for which the open would wait; else errno says more. */
enum move_rc file_open_regular(int dir, const char *leaf, int *out, struct stat *st);

bool file_same_inode(const struct stat *a, const struct stat *b);

/* Nothing was written to it: what any write changes is as it was. */
bool file_unchanged(const struct stat *a, const struct stat *b);

/*
 * What tells a file, and a state of its content, from others: kept in Redis from the move on that
 * made a copy until that copy, or its source, has been dealt with. The change time is not in it: a
 * further name, or another one, changes that.
 */
struct file_id {
    uint64_t dev, ino, bytes;
    int64_t modified_s, modified_ns; /* 0 <= modified_ns < 10^9 */
};
enum { FILE_ID_BYTES = 112 };

struct file_id file_id_of(const struct stat *st);
bool file_id_same(const struct file_id *a, const struct file_id *b);

/* As text of digits, '-' and blanks, and back; false when it is none of ours. */
void file_id_write(char out[FILE_ID_BYTES], const struct file_id *id);
bool file_id_read(const char *text, struct file_id *out);

/*
 * The file under `leaf` as file_open_regular, but as its file system has it now, not as the kernel
 * remembers it: one in user space lets it keep a name, and what is known of it, for a second and
 * more after both are gone. A rename onto itself that must not replace anything changes nothing,
 * and has every name looked up anew (LOOKUP_EXCL).
 */
enum move_rc file_open_afresh(int dir, const char *leaf, int *out, struct stat *st);

/* The same of the content's name `name` below the directory of a level. */
enum move_rc file_open_below(int level, const char *name, int *out, struct stat *st);

/* Whether the directory lists exactly this name, to the byte: where case does not count, another
 * content's name opens the same file. 1, 0, or -1 with errno. */
int file_is_listed(int dir, const char *leaf);

/*
 * Whether the file `fd`, which stands under `name` below `level` and was as `st` says when it was
 * opened, may be what readers are sent to from now on, though another program put it there: whoever
 * copies removes the source last, and makes nothing durable. MOVE_OK: nobody has it open for
 * writing, as far as fs/writers sees, and it, with its name, is durable. MOVE_BUSY: somebody has,
 * or did meanwhile. MOVE_UNDURABLE with errno.
 */
enum move_rc file_settle(int level, const char *name, int fd, const struct stat *st);

/* pread(2) until `n` bytes or the end of the file: what was read, or -1 with errno. */
ssize_t file_read_full(int fd, char *buffer, size_t n, off_t at);

/* Compares `size` bytes. 1: the same; 0: not; -1 with errno (ECANCELED: `tick` said so). */
int file_identical(int a, int b, uint64_t size, move_tick_fn *tick, void *ctx);

/* What a file system says of its blocks, in bytes: in use, and free for users without privileges.
 * Some in user space and over the network say nonsense: more free than there is, or more than 2^64.
 */
uint64_t file_used_bytes(const struct statvfs *vfs);
uint64_t file_free_bytes(const struct statvfs *vfs);

/* Makes the directories durable (fsync(2)), each descriptor once however often it is named
 * (path_dir has one for each directory), so that all names that were changed in one share its
 * commit. `errors[i]` is 0 or the errno for `dirs[i]`; -1 among `dirs` is passed over. `between`
 * (may be NULL) is called before each sync: many directories of a slow disk take long. */
typedef void file_between_fn(void *ctx);
void file_sync_dirs(const int *dirs, size_t n, int *errors, file_between_fn *between, void *ctx);

enum { FILE_TEMP_BYTES = 40 };

/* The temporary name of a content's copy, where a file system has no unnamed files. */
void file_temp_name(char out[FILE_TEMP_BYTES], uint64_t cid);

/* Removes the temporary name of `cid` that a killed attempt left in `dir`: whoever made it and
 * lives holds its lock (flock(2)). `held` (may be NULL) is a file that we have locked ourselves.
 * True when none is left. */
bool file_drop_temp(int dir, uint64_t cid, const struct stat *held);

/* Gives what stands under the private name `temp` its final name, replacing nothing, on any file
 * system: by a link, else by a rename that refuses to replace. 0 or -1 with errno (EEXIST). */
int file_publish_temp(int dir, const char *temp, const char *leaf);

#endif
