/* Files that are one file, and files that change, under a move and its retirement. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/alias.h"
#include "fs/path.h"
#include "fs/retire.h"
#include "fs/writers.h"

/* The second level is on tmpfs, the first on whatever /tmp is. */
struct levels {
    char disk[64], shm[64];
    int bronze, gold;
    struct path_dirs dirs, now;
    struct move move;
};

static int make_level(char *template) {
    assert_non_null(mkdtemp(template));
    int fd = open(template, O_RDONLY | O_DIRECTORY);
    assert_true(fd >= 0);
    return fd;
}

static int setup(void **state) {
    struct levels *l = calloc(1, sizeof *l);
    strcpy(l->disk, "/tmp/tierd-unit.XXXXXX");
    strcpy(l->shm, "/dev/shm/tierd-unit.XXXXXX");
    l->bronze = make_level(l->disk);
    l->gold = make_level(l->shm);
    l->move.src_fd = l->move.dst_fd = -1;
    *state = l;
    return 0;
}

static int teardown(void **state) {
    struct levels *l = *state;
    char command[200];
    move_release(&l->move);
    path_dirs_close(&l->dirs);
    path_dirs_close(&l->now);
    close(l->bronze);
    close(l->gold);
    snprintf(command, sizeof command, "rm -rf %s %s", l->disk, l->shm);
    int rc = system(command);
    free(l);
    return rc;
}

static void put(int dir, const char *name, const char *text) {
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC, 0640);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    struct timespec later[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_NOW}};
    assert_int_equal(futimens(fd, later), 0);
    close(fd);
}

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

/* Moves `a` from bronze to gold, up to its durable name. */
static struct move *moved(struct levels *l, const char *text) {
    struct move *m = &l->move, *const one[] = {m};
    enum move_rc rc;
    put(l->bronze, "a", text);
    assert_int_equal(move_begin(m, 7, l->bronze, l->gold, "a", &l->dirs), MOVE_OK);
    assert_int_equal(move_stage(m, NULL, NULL), MOVE_OK);
    assert_int_equal(move_flush(m, NULL, NULL), MOVE_OK);
    assert_int_equal(move_publish(m, NULL, NULL), MOVE_OK);
    move_sync(one, 1, &rc, NULL, NULL);
    assert_int_equal(rc, MOVE_OK);
    return m;
}

static enum move_rc retired(struct levels *l, struct retire *r) {
    r->cid = 7;
    r->name = "a";
    r->dirs = &l->now;
    enum move_rc rc = retire_begin(r);
    if (rc == MOVE_OK && r->own >= 0)
        rc = retire_end(r, 1);
    retire_release(r);
    path_dirs_close(&l->now);
    return rc;
}

/* What this process moved. */
static enum move_rc retire_moved(struct levels *l) {
    struct retire r = {.spare_level = l->bronze, .auth_level = l->gold, .move = &l->move};
    return retired(l, &r);
}

static void a_writer_before_the_commit(void **state) {
    struct levels *l = *state;
    struct move *m = moved(l, "content");
    assert_int_equal(move_recheck(m), MOVE_OK);
    int writer = openat(l->bronze, "a", O_WRONLY);
    assert_int_equal(move_recheck(m), MOVE_BUSY);
    assert_int_equal(pwrite(writer, "C", 1, 0), 1);
    close(writer);
    assert_int_equal(move_recheck(m), MOVE_CHANGED);
    assert_int_equal(unlinkat(l->bronze, "a", 0), 0);
    assert_int_not_equal(move_recheck(m), MOVE_OK);
}

static void a_copy_that_is_written_to_before_the_commit(void **state) {
    struct levels *l = *state;
    struct move *m = moved(l, "content");
    put(l->gold, "a", "Content");
    assert_int_equal(move_recheck(m), MOVE_CHANGED);
}

/* Opened before the old copy lost its name; a mapping outlives its descriptor. */
static void a_writer_behind_the_private_rename(void **state) {
    struct levels *l = *state;
    (void)moved(l, "content");
    int writer = openat(l->bronze, "a", O_RDWR);
    assert_int_equal(retire_moved(l), MOVE_BUSY);
    assert_string_equal(get(l->bronze, "a"), "content");
    char *map = mmap(NULL, 7, PROT_READ | PROT_WRITE, MAP_SHARED, writer, 0);
    assert_ptr_not_equal(map, MAP_FAILED);
    close(writer);
    assert_int_equal(retire_moved(l), MOVE_BUSY);
    assert_int_equal(munmap(map, 7), 0);
    assert_int_equal(retire_moved(l), MOVE_OK);
    assert_string_equal(get(l->bronze, "a"), "(none)");
    assert_string_equal(get(l->gold, "a"), "content");
}

static void an_old_copy_that_is_newer(void **state) {
    struct levels *l = *state;
    (void)moved(l, "content");
    put(l->bronze, "a", "CONTENT");
    assert_int_equal(retire_moved(l), MOVE_NEWER);
    put(l->bronze, "b", "another");
    assert_int_equal(renameat(l->bronze, "b", l->bronze, "a"), 0);
    assert_int_equal(retire_moved(l), MOVE_NEWER);
    put(l->gold, "a", "contents"); /* both: for a person */
    assert_int_equal(retire_moved(l), MOVE_CHANGED);
    assert_string_equal(get(l->bronze, "a"), "another");
    assert_string_equal(get(l->gold, "a"), "contents");
}

/* What came back from a backup is not what was written last. */
static void an_old_copy_that_is_older(void **state) {
    struct levels *l = *state;
    struct move *m = moved(l, "content");
    struct timespec before[2] = {{.tv_nsec = UTIME_OMIT}, m->src.st_mtim};
    put(l->bronze, "b", "of last week");
    before[1].tv_sec--;
    assert_int_equal(utimensat(l->bronze, "b", before, 0), 0);
    assert_int_equal(renameat(l->bronze, "b", l->bronze, "a"), 0);
    assert_int_equal(retire_moved(l), MOVE_CHANGED);
    assert_string_equal(get(l->bronze, "a"), "of last week");
    assert_string_equal(get(l->gold, "a"), "content");
}

/* The authoritative copy is its owner's to change. */
static void an_authority_that_was_written_to(void **state) {
    struct levels *l = *state;
    (void)moved(l, "content");
    put(l->gold, "a", "content, and more");
    assert_int_equal(retire_moved(l), MOVE_OK);
    assert_string_equal(get(l->bronze, "a"), "(none)");
    assert_string_equal(get(l->gold, "a"), "content, and more");
}

/* Another worker knows of the move what Redis kept. */
static void by_what_is_remembered(void **state) {
    struct levels *l = *state;
    struct move *m = moved(l, "content");
    struct file_id was = file_id_of(&m->src), made = file_id_of(&m->dst);
    move_release(m);
    put(l->bronze, "a", "CONTENT");
    struct retire r = {.spare_level = l->bronze, .auth_level = l->gold, .was = &was, .made = &made};
    assert_int_equal(retired(l, &r), MOVE_NEWER);
    r.was = r.made = NULL;
    assert_int_equal(retired(l, &r), MOVE_CHANGED);
    assert_string_equal(get(l->bronze, "a"), "CONTENT");
}

/* A copy that was never committed goes though it differs: that one, no other. */
static void a_copy_that_is_out_of_date(void **state) {
    struct levels *l = *state;
    struct move *m = moved(l, "content");
    struct file_id made = file_id_of(&m->dst), other = made;
    move_release(m);
    put(l->bronze, "a", "CONTENT");
    struct retire r = {.spare_level = l->gold, .auth_level = l->bronze, .stale = &other};
    other.ino++;
    r.only_stale = true;
    assert_int_equal(retired(l, &r), MOVE_OK);
    assert_string_equal(get(l->gold, "a"), "content");
    r.only_stale = false;
    assert_int_equal(retired(l, &r), MOVE_CHANGED);
    assert_string_equal(get(l->gold, "a"), "content");
    r.stale = &made;
    assert_int_equal(renameat(l->bronze, "a", l->bronze, "b"), 0); /* nothing else stands */
    assert_int_equal(retired(l, &r), MOVE_CHANGED);
    assert_string_equal(get(l->gold, "a"), "content");
    assert_int_equal(renameat(l->bronze, "b", l->bronze, "a"), 0);
    assert_int_equal(retired(l, &r), MOVE_OK);
    assert_string_equal(get(l->gold, "a"), "(none)");
    assert_string_equal(get(l->bronze, "a"), "CONTENT");
}

/* One that has another number by now, and that nobody will adopt, goes when it holds the same. */
static void a_copy_that_is_numbered_anew(void **state) {
    struct levels *l = *state;
    struct move *m = moved(l, "content");
    struct file_id other = file_id_of(&m->dst);
    move_release(m);
    other.ino++;
    struct retire r = {
        .spare_level = l->gold, .auth_level = l->bronze, .stale = &other, .only_stale = true};
    assert_int_equal(retired(l, &r), MOVE_OK);
    assert_string_equal(get(l->gold, "a"), "content");
    r.only_stale = false;
    assert_int_equal(retired(l, &r), MOVE_OK);
    assert_string_equal(get(l->gold, "a"), "(none)");
    assert_string_equal(get(l->bronze, "a"), "content");
}

/* Unless what it was made of is the older one by now: it came back from a backup. */
static void a_copy_that_is_newer_than_its_source(void **state) {
    struct levels *l = *state;
    struct move *m = moved(l, "content");
    struct file_id made = file_id_of(&m->dst);
    struct timespec before[2] = {{.tv_nsec = UTIME_OMIT}, m->src.st_mtim};
    move_release(m);
    put(l->bronze, "a", "of last week");
    before[1].tv_sec--;
    assert_int_equal(utimensat(l->bronze, "a", before, 0), 0);
    struct retire r = {.spare_level = l->gold, .auth_level = l->bronze, .stale = &made};
    assert_int_equal(retired(l, &r), MOVE_CHANGED);
    assert_string_equal(get(l->gold, "a"), "content");
}

/* Two names of one inode, of which one is no link: as a file mounted over another shows it. */
static void one_inode_needs_a_name_that_stays(void **state) {
    struct levels *l = *state;
    put(l->bronze, "a", "content");
    int sub = mkdirat(l->bronze, "sub", 0755) == 0
                  ? openat(l->bronze, "sub", O_RDONLY | O_DIRECTORY)
                  : -1;
    assert_int_equal(linkat(l->bronze, "a", sub, "a", 0), 0);
    struct retire r = {.spare_level = l->bronze, .auth_level = sub};
    assert_int_equal(retired(l, &r), MOVE_OK);
    assert_string_equal(get(sub, "a"), "content");
    close(sub);
}

static int count(int dir, const char *prefix) {
    char command[300], path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", dir);
    char where[200] = "";
    assert_true(readlink(path, where, sizeof where - 1) > 0);
    snprintf(command, sizeof command, "ls -A %s | grep -c '^%s' | tr -d '\\n'", where, prefix);
    FILE *f = popen(command, "r");
    int n = -1;
    assert_int_equal(fscanf(f, "%d", &n), 1);
    pclose(f);
    return n;
}

static void directories_that_are_one(void **state) {
    struct levels *l = *state;
    int again = openat(l->bronze, ".", O_RDONLY | O_DIRECTORY);
    struct alias_set set = {0};
    put(l->bronze, "a", "content");
    assert_int_equal(alias_shows(l->bronze, again, NULL), 1);
    assert_int_equal(alias_shows(l->bronze, again, "a"), 1);
    assert_int_equal(alias_shows(l->bronze, l->gold, "a"), 0);
    assert_int_equal(alias_shows(l->gold, l->bronze, "a"), 0); /* where none can be linked */
    assert_int_equal(alias_shows_once(&set, l->bronze, l->gold, NULL), 0);
    assert_int_equal(alias_shows_once(&set, l->bronze, l->gold, NULL), 0);
    assert_int_equal(set.n, 1);
    assert_int_equal(alias_shows_once(&set, l->bronze, again, NULL), 1);
    assert_int_equal(set.n, 1);
    assert_int_equal(count(l->bronze, ALIAS_PROBE_PREFIX), 0);
    assert_int_equal(count(l->gold, ALIAS_PROBE_PREFIX), 0);
    close(again);
}

/* One whose maker lives stays; one that is gone before it was looked for proves nothing. */
static void probes_that_were_left(void **state) {
    struct levels *l = *state;
    struct alias_probe p;
    put(l->bronze, ALIAS_PROBE_PREFIX "0123456789abcdef", "");
    assert_int_equal(alias_probe_make(&p, l->bronze, NULL), 0);
    alias_sweep(l->bronze, NULL);
    assert_int_equal(count(l->bronze, ALIAS_PROBE_PREFIX), 1);
    assert_int_equal(alias_probe_seen(&p, l->gold), 0);
    assert_int_equal(unlinkat(l->bronze, p.name, 0), 0);
    assert_int_equal(alias_probe_seen(&p, l->gold), -EAGAIN);
    alias_probe_remove(&p);
}

/* A look that was killed left the content a second name: whoever has the file locked takes it. */
static void a_probe_that_is_a_link(void **state) {
    struct levels *l = *state;
    put(l->bronze, "a", "content");
    assert_int_equal(linkat(l->bronze, "a", l->bronze, ALIAS_PROBE_PREFIX "0123456789abcdef", 0),
                     0);
    (void)moved(l, "content");
    assert_int_equal(count(l->bronze, ALIAS_PROBE_PREFIX), 0);
}

static void writers_are_told_from_readers(void **state) {
    struct levels *l = *state;
    put(l->bronze, "a", "content");
    int reader = openat(l->bronze, "a", O_RDONLY), other = openat(l->bronze, "a", O_RDONLY);
    assert_int_equal(writers_by_lease(reader), 0);
    assert_false(writers_seen(reader, true));
    assert_false(writers_seen(reader, false)); /* a look at all processes */
    close(other);
    int writer = openat(l->bronze, "a", O_WRONLY | O_APPEND);
    assert_int_equal(writers_by_lease(reader), 1);
    assert_true(writers_seen(reader, true));
    assert_true(writers_seen(reader, false));
    close(writer);
    close(reader);
}

static void identities_as_text(void **state) {
    (void)state;
    char text[FILE_ID_BYTES];
    struct file_id id = {UINT64_MAX, UINT64_MAX, UINT64_MAX, INT64_MIN, 999999999}, back;
    file_id_write(text, &id);
    assert_true(file_id_read(text, &back));
    assert_true(file_id_same(&id, &back));
    static const char *const bad[] = {"", "1", "1 2 3 4", "1 2 3 4 5 6", "1 2 3 4 5x", "a 2 3 4 5"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(file_id_read(bad[i], &back));
}

static void names_that_are_listed(void **state) {
    struct levels *l = *state;
    put(l->bronze, "a", "content");
    assert_int_equal(file_is_listed(l->bronze, "a"), 1);
    assert_int_equal(file_is_listed(l->bronze, "A"), 0);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_writer_before_the_commit),
        TEST(a_copy_that_is_written_to_before_the_commit),
        TEST(a_writer_behind_the_private_rename),
        TEST(an_old_copy_that_is_newer),
        TEST(an_old_copy_that_is_older),
        TEST(an_authority_that_was_written_to),
        TEST(by_what_is_remembered),
        TEST(a_copy_that_is_out_of_date),
        TEST(a_copy_that_is_numbered_anew),
        TEST(a_copy_that_is_newer_than_its_source),
        TEST(one_inode_needs_a_name_that_stays),
        TEST(directories_that_are_one),
        TEST(probes_that_were_left),
        TEST(a_probe_that_is_a_link),
        TEST(writers_are_told_from_readers),
        TEST(identities_as_text),
        TEST(names_that_are_listed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
