#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/path.h"
#include "fs/retire.h"

/* Two levels; the second is on tmpfs, the first on whatever /tmp is. */
struct levels {
    char disk[64], shm[64];
    int bronze, silver, gold; /* silver shares bronze's file system, gold does not */
    int answer, answer_after; /* of the database; after the renaming, 0: the same */
};
static struct path_dirs dirs; /* of the moves of a test */

static int make_level(const char *base, const char *name) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", base, name);
    assert_int_equal(mkdir(path, 0755), 0);
    int fd = open(path, O_RDONLY | O_DIRECTORY);
    assert_true(fd >= 0);
    return fd;
}

static int setup(void **state) {
    struct levels *l = calloc(1, sizeof *l);
    strcpy(l->disk, "/tmp/tierd-unit.XXXXXX");
    strcpy(l->shm, "/dev/shm/tierd-unit.XXXXXX");
    assert_non_null(mkdtemp(l->disk));
    assert_non_null(mkdtemp(l->shm));
    l->bronze = make_level(l->disk, "bronze");
    l->silver = make_level(l->disk, "silver");
    l->gold = make_level(l->shm, "gold");
    l->answer = 1;
    *state = l;
    return 0;
}

static int teardown(void **state) {
    struct levels *l = *state;
    char command[200];
    close(l->bronze);
    close(l->silver);
    close(l->gold);
    path_dirs_close(&dirs);
    snprintf(command, sizeof command, "rm -rf %s %s", l->disk, l->shm);
    int rc = system(command);
    free(l);
    return rc;
}

static void put(int dir, const char *name, const char *text) {
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC, 0640);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

/* What stands under the name, or "(none)". */
static const char *get(int dir, const char *name) {
    static char text[256];
    int fd = openat(dir, name, O_RDONLY);
    if (fd < 0)
        return "(none)";
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    return text;
}

/* The steps up to the name, in their order. */
static enum move_rc staged(struct move *m, move_tick_fn *tick, void *ctx) {
    enum move_rc rc = move_stage(m, tick, ctx);
    if (rc == MOVE_OK)
        rc = move_drain(m, tick, ctx);
    return rc == MOVE_OK ? move_flush(m, tick, ctx) : rc;
}

static enum move_rc published(struct move *m) {
    enum move_rc rc = move_publish(m, NULL, NULL);
    if (rc == MOVE_OK)
        move_sync(&m, 1, &rc, NULL, NULL);
    return rc;
}

/* As the worker retires: the database answers `l->answer` before (when there was no move) and after
 * the renaming. */
static enum move_rc retire_by(struct levels *l, int spare, int auth, const char *name,
                              struct move *m) {
    enum move_rc rc;
    bool again;
    do {
        struct path_dirs now = {0};
        struct retire r = {.cid = 7,
                           .name = name,
                           .spare_level = spare,
                           .auth_level = auth,
                           .move = m,
                           .dirs = &now};
        if (!m && l->answer != 1)
            return l->answer == 0 ? MOVE_CHANGED : MOVE_BUSY;
        rc = retire_begin(&r);
        if (rc == MOVE_OK && r.own >= 0)
            rc = retire_end(&r, l->answer_after ? l->answer_after : l->answer);
        again = rc == MOVE_OK && r.again;
        retire_release(&r);
        path_dirs_close(&now);
    } while (again);
    return rc;
}

static enum move_rc whole(struct levels *l, int from, int to, const char *name, bool temp_name) {
    struct move m;
    enum move_rc rc = move_begin(&m, 7, from, to, name, &dirs);
    m.force_temp_name = temp_name;
    m.verify = true;
    if (rc == MOVE_OK)
        rc = staged(&m, NULL, NULL);
    if (rc == MOVE_OK)
        rc = published(&m);
    if (rc == MOVE_OK) {
        assert_string_not_equal(get(from, name), "(none)"); /* both stand until retirement */
        rc = retire_by(l, from, to, name, &m);
    }
    move_release(&m);
    path_dirs_close(&dirs);
    return rc;
}

static void every_way(void **state) {
    struct levels *l = *state;
    for (int way = 0; way < 3; way++) {
        int to = way == 0 ? l->silver : l->gold;
        put(l->bronze, "a", "content");
        assert_int_equal(whole(l, l->bronze, to, "a", way == 2), MOVE_OK);
        assert_string_equal(get(to, "a"), "content");
        assert_string_equal(get(l->bronze, "a"), "(none)");
        assert_string_equal(get(to, ".tierd-tmp.7"), "(none)");
        unlinkat(to, "a", 0);
    }
}

static void sub_directories(void **state) {
    struct levels *l = *state;
    mkdirat(l->bronze, "2018", 0755);
    mkdirat(l->bronze, "2018/07", 0755);
    put(l->bronze, "2018/07/a", "x");
    assert_int_equal(whole(l, l->bronze, l->gold, "2018/07/a", false), MOVE_OK);
    assert_string_equal(get(l->gold, "2018/07/a"), "x");
}

static void never_replaces(void **state) {
    struct levels *l = *state;
    put(l->bronze, "a", "content");
    put(l->gold, "a", "another");
    assert_int_equal(whole(l, l->bronze, l->gold, "a", false), MOVE_CONFLICT);
    assert_string_equal(get(l->gold, "a"), "another");
    assert_string_equal(get(l->bronze, "a"), "content");
}

static void one_that_appears_before_publish(void **state) {
    struct levels *l = *state;
    struct move m;
    for (int temp = 0; temp < 2; temp++) {
        put(l->bronze, "a", "content");
        assert_int_equal(move_begin(&m, 7, l->bronze, l->gold, "a", &dirs), MOVE_OK);
        m.force_temp_name = temp;
        assert_int_equal(staged(&m, NULL, NULL), MOVE_OK);
        put(l->gold, "a", "foreign");
        assert_int_equal(published(&m), MOVE_CONFLICT);
        move_release(&m);
        assert_string_equal(get(l->gold, "a"), "foreign");
        assert_string_equal(get(l->gold, ".tierd-tmp.7"), "(none)");
        unlinkat(l->gold, "a", 0);
    }
}

static void identical_is_adopted(void **state) {
    struct levels *l = *state;
    put(l->bronze, "a", "content");
    put(l->gold, "a", "content");
    /* adopted, but not known to be a copy of this very source: bytes decide at retirement too */
    assert_int_equal(whole(l, l->bronze, l->gold, "a", false), MOVE_OK);
    assert_string_equal(get(l->bronze, "a"), "(none)");
}

static int write_source(void *ctx, uint64_t done_bytes, uint64_t total_bytes) {
    const struct levels *l = ctx;
    (void)done_bytes;
    (void)total_bytes;
    put(l->bronze, "s.txt", "newer");
    return 0;
}

/* While it is compared, the source is overwritten: what stands there is the older content. */
static void not_adopted_when_the_source_changed(void **state) {
    struct levels *l = *state;
    struct move m;
    put(l->bronze, "s.txt", "older");
    put(l->gold, "s.txt", "older");
    assert_int_equal(move_begin(&m, 7, l->bronze, l->gold, "s.txt", &dirs), MOVE_OK);
    assert_int_equal(staged(&m, write_source, l), MOVE_CHANGED);
    move_release(&m);
    assert_string_equal(get(l->bronze, "s.txt"), "newer");
    assert_string_equal(get(l->gold, "s.txt"), "older");
}

/* Where there are no unnamed files, a kill leaves a name behind; the next attempt takes it away,
 * unless its maker lives. */
static void temp_names_of_killed_attempts(void **state) {
    struct levels *l = *state;
    put(l->bronze, "a", "content");
    put(l->gold, ".tierd-tmp.7", "half");
    assert_int_equal(whole(l, l->bronze, l->gold, "a", true), MOVE_OK);
    assert_string_equal(get(l->gold, ".tierd-tmp.7"), "(none)");
    /* published, but killed before the temporary name went: moved on from there ... */
    assert_int_equal(linkat(l->gold, "a", l->gold, ".tierd-tmp.7", 0), 0);
    assert_int_equal(whole(l, l->gold, l->bronze, "a", true), MOVE_OK);
    assert_string_equal(get(l->gold, ".tierd-tmp.7"), "(none)");
    /* ... and adopted there */
    put(l->gold, "a", "content");
    assert_int_equal(linkat(l->gold, "a", l->gold, ".tierd-tmp.7", 0), 0);
    assert_int_equal(whole(l, l->bronze, l->gold, "a", true), MOVE_OK);
    assert_string_equal(get(l->gold, ".tierd-tmp.7"), "(none)");
    assert_string_equal(get(l->gold, "a"), "content");
    put(l->bronze, "b", "content");
    put(l->gold, ".tierd-tmp.7", "being written");
    int fd = openat(l->gold, ".tierd-tmp.7", O_RDONLY);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_int_equal(whole(l, l->bronze, l->gold, "b", true), MOVE_BUSY);
    assert_string_equal(get(l->gold, ".tierd-tmp.7"), "being written");
    close(fd);
}

/* Killed after the rename to the private name, then wanted back there: the old copy is a copy
 * again. */
static void a_retirement_that_was_killed(void **state) {
    struct levels *l = *state;
    put(l->bronze, "a", "content");
    put(l->gold, ".tierd-old.7", "content");
    assert_int_equal(whole(l, l->bronze, l->gold, "a", false), MOVE_OK);
    assert_string_equal(get(l->gold, "a"), "content");
    assert_string_equal(get(l->gold, ".tierd-old.7"), "(none)");
    assert_string_equal(get(l->bronze, "a"), "(none)");
}

static int scribble(void *ctx, uint64_t done, uint64_t total) {
    struct levels *l = ctx;
    (void)done;
    (void)total;
    put(l->bronze, "a", "changed meanwhile");
    return 0;
}

static int abandon(void *ctx, uint64_t done, uint64_t total) {
    (void)ctx;
    (void)done;
    (void)total;
    return 1;
}

/* Where a temporary name stands for what has none, and no lock of ours reaches the one who took it
 * for abandoned: what has the name now is not what was staged. */
static void a_temp_name_that_was_taken(void **state) {
    struct levels *l = *state;
    struct move m;
    put(l->bronze, "a", "content");
    assert_int_equal(move_begin(&m, 7, l->bronze, l->gold, "a", &dirs), MOVE_OK);
    m.force_temp_name = true;
    assert_int_equal(staged(&m, NULL, NULL), MOVE_OK);
    assert_int_equal(unlinkat(l->gold, ".tierd-tmp.7", 0), 0);
    put(l->gold, ".tierd-tmp.7", "half");
    assert_int_equal(published(&m), MOVE_BUSY);
    move_release(&m);
    assert_string_equal(get(l->gold, "a"), "(none)");
    assert_string_equal(get(l->gold, ".tierd-tmp.7"), "half");
}

static void a_source_that_changes(void **state) {
    struct levels *l = *state;
    struct move m;
    put(l->bronze, "a", "content");
    assert_int_equal(move_begin(&m, 7, l->bronze, l->gold, "a", &dirs), MOVE_OK);
    assert_int_equal(staged(&m, scribble, l), MOVE_CHANGED);
    move_release(&m);
    assert_int_equal(move_begin(&m, 7, l->bronze, l->gold, "a", &dirs), MOVE_OK);
    assert_int_equal(staged(&m, abandon, l), MOVE_ABANDONED);
    move_release(&m);
    assert_string_equal(get(l->gold, "a"), "(none)");
}

/* A comparison that did not come to its end says nothing: what stands there may be another file of
 * the same length. */
static void a_comparison_cut_short_adopts_nothing(void **state) {
    struct levels *l = *state;
    struct move m;
    enum { BYTES = 1024 * 1024 }; /* several reads of which the first are the same */
    put(l->bronze, "a", "");
    put(l->gold, "a", "foreign");
    for (int i = 0; i < 2; i++) {
        int fd = openat(i == 0 ? l->bronze : l->gold, "a", O_WRONLY);
        assert_int_equal(ftruncate(fd, 0), 0);
        assert_int_equal(ftruncate(fd, BYTES), 0);
        assert_int_equal(pwrite(fd, i == 0 ? "a" : "b", 1, BYTES - 1), 1);
        close(fd);
    }
    assert_int_equal(move_begin(&m, 7, l->bronze, l->gold, "a", &dirs), MOVE_OK);
    assert_int_equal(move_stage(&m, abandon, l), MOVE_ABANDONED);
    assert_false(m.adopted);
    move_release(&m);
    /* it appears while the copy is made, and is compared when that is to get its name */
    assert_int_equal(renameat(l->gold, "a", l->gold, "b"), 0);
    assert_int_equal(move_begin(&m, 7, l->bronze, l->gold, "a", &dirs), MOVE_OK);
    assert_int_equal(staged(&m, NULL, NULL), MOVE_OK);
    assert_int_equal(renameat(l->gold, "b", l->gold, "a"), 0);
    assert_int_equal(move_publish(&m, abandon, l), MOVE_ABANDONED);
    assert_false(m.adopted);
    move_release(&m);
}

static void what_is_refused(void **state) {
    struct levels *l = *state;
    struct move m;
    assert_int_equal(move_begin(&m, 7, l->bronze, l->gold, "none", &dirs), MOVE_MISSING);
    move_release(&m);
    mkfifoat(l->bronze, "fifo", 0600);
    assert_int_equal(move_begin(&m, 7, l->bronze, l->gold, "fifo", &dirs), MOVE_NOT_REGULAR);
    move_release(&m);
    assert_int_equal(symlinkat("/etc/hostname", l->bronze, "link"), 0);
    assert_int_equal(move_begin(&m, 7, l->bronze, l->gold, "link", &dirs), MOVE_NOT_REGULAR);
    move_release(&m);
    put(l->bronze, "a", "x");
    assert_int_equal(linkat(l->bronze, "a", l->bronze, "b", 0), 0);
    assert_int_equal(move_begin(&m, 7, l->bronze, l->gold, "a", &dirs), MOVE_HARDLINKS);
    move_release(&m);
    unlinkat(l->bronze, "b", 0);
    int fd = openat(l->bronze, "a", O_RDONLY);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_int_equal(move_begin(&m, 7, l->bronze, l->gold, "a", &dirs), MOVE_BUSY);
    move_release(&m);
    close(fd);
    assert_int_equal(move_begin(&m, 7, l->bronze, l->bronze, "a", &dirs), MOVE_ALIAS);
    move_release(&m);
}

static enum move_rc retire(struct levels *l, int spare, int auth) {
    return retire_by(l, spare, auth, "a", NULL);
}

static void retirement_keeps_what_it_must(void **state) {
    struct levels *l = *state;
    put(l->bronze, "a", "content");
    assert_int_equal(retire(l, l->bronze, l->gold), MOVE_CHANGED); /* nothing at the authority */
    put(l->gold, "a", "CONTENT");
    assert_int_equal(retire(l, l->bronze, l->gold), MOVE_CHANGED); /* something else there */
    put(l->gold, "a", "content");
    l->answer = 0;
    assert_int_equal(retire(l, l->bronze, l->gold), MOVE_CHANGED); /* the database says otherwise */
    l->answer = -EIO;
    assert_int_equal(retire(l, l->bronze, l->gold), MOVE_BUSY); /* nobody knows */
    l->answer = 1;
    l->answer_after = -EIO; /* it was renamed already: put back */
    assert_int_equal(retire(l, l->bronze, l->gold), MOVE_BUSY);
    assert_string_equal(get(l->bronze, "a"), "content");
    l->answer_after = 0;
    assert_int_equal(retire(l, l->gold, l->gold), MOVE_ALIAS);
    assert_string_equal(get(l->bronze, "a"), "content");
    l->answer = 1;
    assert_int_equal(retire(l, l->bronze, l->gold), MOVE_OK);
    assert_string_equal(get(l->bronze, "a"), "(none)");
    assert_int_equal(retire(l, l->bronze, l->gold), MOVE_OK); /* nothing left to do */
}

/* Killed after the rename to the private name: the next one judges what stands there. */
static void a_leftover_private_name(void **state) {
    struct levels *l = *state;
    put(l->bronze, ".tierd-old.7", "content");
    assert_int_equal(retire(l, l->bronze, l->gold), MOVE_CHANGED);
    assert_string_equal(get(l->bronze, "a"), "content"); /* put back: no authoritative copy */
    assert_int_equal(renameat(l->bronze, "a", l->bronze, ".tierd-old.7"), 0);
    put(l->gold, "a", "content");
    assert_int_equal(retire(l, l->bronze, l->gold), MOVE_OK);
    assert_string_equal(get(l->bronze, "a"), "(none)");
    assert_string_equal(get(l->bronze, ".tierd-old.7"), "(none)");
}

struct swap {
    struct levels *l;
    bool fifo, did;
    int fd; /* of the other file, which is locked */
};

/* Between the look at a copy and its renaming another file takes its name. */
static int swap(void *ctx, uint64_t done, uint64_t total) {
    struct swap *s = ctx;
    (void)done;
    (void)total;
    if (s->did)
        return 0;
    s->did = true;
    assert_int_equal(unlinkat(s->l->bronze, "a", 0), 0);
    if (s->fifo) {
        assert_int_equal(mkfifoat(s->l->bronze, "a", 0600), 0);
    } else {
        put(s->l->bronze, "a", "in use");
        s->fd = openat(s->l->bronze, "a", O_RDONLY);
        assert_int_equal(flock(s->fd, LOCK_EX), 0);
    }
    return 0;
}

/* What was renamed and is not to go gets its name back, whatever it is. */
static void another_file_is_put_back(void **state) {
    struct levels *l = *state;
    struct stat st;
    for (int fifo = 0; fifo < 2; fifo++) {
        struct swap s = {.l = l, .fifo = fifo, .fd = -1};
        struct path_dirs now = {0};
        struct retire r = {.cid = 7,
                           .name = "a",
                           .spare_level = l->bronze,
                           .auth_level = l->gold,
                           .tick = swap,
                           .ctx = &s,
                           .dirs = &now};
        put(l->bronze, "a", "content");
        put(l->gold, "a", "content");
        assert_int_equal(retire_begin(&r), fifo ? MOVE_NOT_REGULAR : MOVE_BUSY);
        retire_release(&r);
        path_dirs_close(&now);
        assert_int_equal(fstatat(l->bronze, "a", &st, AT_SYMLINK_NOFOLLOW), 0);
        assert_int_equal(S_ISFIFO(st.st_mode), fifo);
        assert_string_equal(get(l->bronze, ".tierd-old.7"), "(none)");
        path_close(&s.fd);
        unlinkat(l->bronze, "a", 0);
    }
}

static void levels_lie_under_roots(void **state) {
    struct levels *l = *state;
    char path[200];
    const char *roots[] = {l->disk};
    snprintf(path, sizeof path, "%s/bronze", l->disk);
    int fd = path_open_level(path, roots, 1);
    assert_true(fd >= 0);
    close(fd);
    fd = path_open_level(l->disk, roots, 1);
    assert_true(fd >= 0);
    close(fd);
    snprintf(path, sizeof path, "%sx/bronze", l->disk);
    assert_int_equal(path_open_level(path, roots, 1), -EXDEV);
    snprintf(path, sizeof path, "%s/../%s", l->disk, l->disk + 5);
    assert_int_equal(path_open_level(path, roots, 1), -EINVAL);
    assert_int_equal(path_open_level("bronze", roots, 1), -EINVAL);
    assert_int_equal(symlinkat("/etc", l->bronze, "etc"), 0);
    snprintf(path, sizeof path, "%s/bronze/etc", l->disk);
    assert_true(path_open_level(path, roots, 1) < 0);
}

/* An open would wait up to /proc/sys/fs/lease-break-time for whoever has it. */
static void a_file_that_is_leased_is_busy(void **state) {
    struct levels *l = *state;
    struct move m;
    int leased[2];
    char byte;
    put(l->bronze, "a", "A");
    assert_int_equal(pipe(leased), 0);
    pid_t holder = fork();
    if (holder == 0) {
        int fd = openat(l->bronze, "a", O_RDWR);
        byte = fcntl(fd, F_SETLEASE, F_WRLCK) == 0 ? 'y' : 'n';
        if (write(leased[1], &byte, 1) == 1)
            pause();
        _exit(0);
    }
    assert_true(holder > 0);
    assert_int_equal(read(leased[0], &byte, 1), 1);
    assert_int_equal(byte, 'y');
    assert_int_equal(move_begin(&m, 7, l->bronze, l->gold, "a", &dirs), MOVE_BUSY);
    move_release(&m);
    kill(holder, SIGKILL);
    assert_int_equal(waitpid(holder, NULL, 0), holder);
    close(leased[0]);
    close(leased[1]);
    assert_int_equal(move_begin(&m, 7, l->bronze, l->gold, "a", &dirs), MOVE_OK);
    move_release(&m);
}

static void a_directory_has_one_descriptor(void **state) {
    struct levels *l = *state;
    mkdirat(l->silver, "d", 0755); /* the model of what is made */
    mkdirat(l->silver, "d/e", 0755);
    assert_int_equal(path_dir(&dirs, l->bronze, "d/e/a", -1), -1);
    assert_int_equal(errno, ENOENT);
    int made = path_dir(&dirs, l->bronze, "d/e/a", l->silver);
    assert_true(made >= 0);
    assert_int_equal(path_dir(&dirs, l->bronze, "d/e/b", l->silver), made);
    assert_int_equal(path_dir(&dirs, l->bronze, "d/e/a", -1), made);
    int other = path_dir(&dirs, l->gold, "d/e/a", l->silver);
    assert_true(other >= 0 && other != made);
    int up = path_dir(&dirs, l->bronze, "d/a", -1);
    assert_true(up >= 0 && up != made);
    int again = openat(l->bronze, "d", O_RDONLY | O_DIRECTORY); /* another way to it */
    assert_int_equal(path_dir(&dirs, again, "e/a", -1), made);
    close(again);
    path_dirs_close(&dirs);
    assert_int_equal(fcntl(made, F_GETFD), -1);
    assert_int_equal(fcntl(other, F_GETFD), -1);
    assert_true(path_dir(&dirs, l->bronze, "d/e/a", -1) >= 0);
}

/* Up to what is not empty; who has a directory to put something in keeps it. */
static void emptied_directories_go(void **state) {
    struct levels *l = *state;
    struct path_dirs other = {0};
    mkdirat(l->bronze, "d", 0755);
    mkdirat(l->bronze, "d/e", 0755);
    mkdirat(l->bronze, "d/e/f", 0755);
    mkdirat(l->bronze, "d/kept", 0755);
    int dir = path_dir(&dirs, l->bronze, "d/e/f/a", -1);
    assert_true(dir >= 0);
    assert_true(path_dir(&other, l->bronze, "d/e/f/b", l->silver) >= 0);
    path_prune(dir, "d/e/f/a");
    assert_int_equal(faccessat(l->bronze, "d/e/f", F_OK, 0), 0);
    path_dirs_close(&other);
    path_prune(dir, "d/e/f/a");
    assert_int_equal(faccessat(l->bronze, "d/e", F_OK, 0), -1);
    assert_int_equal(faccessat(l->bronze, "d/kept", F_OK, 0), 0);
    path_prune(l->bronze, "a"); /* the level's own */
    assert_int_equal(faccessat(l->bronze, ".", F_OK, 0), 0);
    assert_int_equal(path_dir(&other, l->gold, "d/e/f/a", l->bronze), -1); /* no model is left */
    assert_int_equal(errno, ENOENT);
}

static void what_a_file_system_says_of_its_room(void **state) {
    (void)state;
    struct statvfs vfs = {.f_blocks = 10, .f_bfree = 4, .f_bavail = 3, .f_frsize = 512};
    assert_int_equal(file_used_bytes(&vfs), 6 * 512);
    assert_int_equal(file_free_bytes(&vfs), 3 * 512);
    vfs.f_bfree = 11; /* some say so */
    assert_int_equal(file_used_bytes(&vfs), 0);
    vfs.f_bavail = UINT64_MAX / 2;
    assert_true(file_free_bytes(&vfs) == UINT64_MAX);
}

/* One entry: type, flags and mask of no interest here, and who. */
static size_t add_ace(unsigned char *at, const char *who) {
    size_t len = strlen(who);
    memset(at, 0, 16 + (len + 3) / 4 * 4);
    at[15] = (unsigned char)len;
    memcpy(at + 16, who, len);
    return 16 + (len + 3) / 4 * 4;
}

static void nfs_lists_that_say_no_more_than_the_mode(void **state) {
    (void)state;
    unsigned char acl[128] = {0, 0, 0, 3};
    size_t n = 4;
    n += add_ace(acl + n, "OWNER@");
    n += add_ace(acl + n, "GROUP@");
    n += add_ace(acl + n, "EVERYONE@");
    assert_true(meta_nfs4_is_mode(acl, n));
    for (size_t cut = 0; cut + 4 < n; cut++) /* cut short: not known, so no */
        assert_false(meta_nfs4_is_mode(acl, cut));
    acl[3] = 4;
    n += add_ace(acl + n, "eve@example.org");
    assert_false(meta_nfs4_is_mode(acl, n));
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_directory_has_one_descriptor),
        TEST(a_file_that_is_leased_is_busy),
        TEST(every_way),
        TEST(sub_directories),
        TEST(never_replaces),
        TEST(one_that_appears_before_publish),
        TEST(identical_is_adopted),
        TEST(not_adopted_when_the_source_changed),
        TEST(temp_names_of_killed_attempts),
        TEST(a_retirement_that_was_killed),
        TEST(a_temp_name_that_was_taken),
        TEST(a_source_that_changes),
        TEST(a_comparison_cut_short_adopts_nothing),
        TEST(what_is_refused),
        TEST(retirement_keeps_what_it_must),
        TEST(a_leftover_private_name),
        TEST(another_file_is_put_back),
        TEST(levels_lie_under_roots),
        TEST(emptied_directories_go),
        TEST(what_a_file_system_says_of_its_room),
        TEST(nfs_lists_that_say_no_more_than_the_mode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
