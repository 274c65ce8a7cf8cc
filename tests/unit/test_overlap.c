#include "unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/overlap.h"
#include "fs/overlaps.h"
#include "job/ladder.h"

static void paths(void **state) {
    (void)state;
    static const struct {
        const char *a, *b;
        enum overlap is, back;
    } cases[] = {
        {"/srv/a", "/srv/b", OVERLAP_NONE, OVERLAP_NONE},
        {"/srv/a", "/srv/ab", OVERLAP_NONE, OVERLAP_NONE},
        {"/srv/a", "/srv/a", OVERLAP_SAME, OVERLAP_SAME},
        {"/srv/a/", "//srv///a", OVERLAP_SAME, OVERLAP_SAME},
        {"/srv/a/b", "/srv/a", OVERLAP_WITHIN, OVERLAP_NONE},
        {"/srv//a/b/c", "/srv/a/", OVERLAP_WITHIN, OVERLAP_NONE},
        {"/srv", "/", OVERLAP_WITHIN, OVERLAP_NONE},
        {"/srv/A", "/srv/a", OVERLAP_NONE, OVERLAP_NONE}, /* only looking can tell */
        {"h:/srv/a/b", "h:/srv/a", OVERLAP_WITHIN, OVERLAP_NONE},
        {"h:/srv/a", "i:/srv/a", OVERLAP_NONE, OVERLAP_NONE},
        {"h:/srv/a", "/srv/a", OVERLAP_NONE, OVERLAP_NONE},
        {"h:/srv/a", "/", OVERLAP_NONE, OVERLAP_NONE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(overlap_of_paths(cases[i].a, cases[i].b), cases[i].is);
        assert_int_equal(overlap_of_paths(cases[i].b, cases[i].a), cases[i].back);
    }
    assert_true(overlap_nests(OVERLAP_WITHIN) && overlap_nests(OVERLAP_SHOWS_WITHIN));
    assert_false(overlap_nests(OVERLAP_SAME) || overlap_nests(OVERLAP_SHOWS));
}

static void sentences(void **state) {
    (void)state;
    char text[512];
    overlap_text(text, sizeof text, OVERLAP_WITHIN, "gold", "/a/b", "bronze", "/a");
    assert_string_equal(text, "the levels gold and bronze overlap: /a/b lies within /a");
    overlap_text(text, sizeof text, OVERLAP_SHOWS, "bronze", "/a", "gold", "/p");
    assert_string_equal(text, "the levels bronze and gold show the same files: what is put into /a "
                              "appears in /p");
    char name[300], path[2000];
    memset(name, 'n', sizeof name);
    memset(path, 'p', sizeof path);
    name[sizeof name - 1] = path[sizeof path - 1] = '\0';
    overlap_text(text, sizeof text, OVERLAP_SHOWS_WITHIN, name, path, name, path);
    assert_true(strlen(text) < sizeof text - 1); /* a job's reason holds all of it */
}

static char said[4][512];
static size_t n_said;

static void say(const char *why) {
    assert_true(n_said < 4);
    strcpy(said[n_said++], why);
}

static void ladders(void **state) {
    (void)state;
    struct ladder l;
    ladder_init(&l);
    assert_int_equal(ladder_add(&l, str_view("bronze"), str_view("/srv/pool"), 0), 0);
    assert_int_equal(ladder_add(&l, str_view("silver"), str_view("/srv/silver"), 1000), 0);
    assert_int_equal(ladder_add(&l, str_view("gold"), str_view("/srv/gold"), 2000), 0);
    n_said = 0;
    ladder_check_paths(&l, say);
    assert_int_equal(n_said, 0);
    assert_int_equal(ladder_add(&l, str_view("top"), str_view("/srv/pool/top"), 3000), 0);
    assert_int_equal(ladder_add(&l, str_view("twin"), str_view("/srv/gold/"), 4000), 0);
    ladder_check_paths(&l, say);
    assert_int_equal(n_said, 2);
    assert_string_equal(said[1],
                        "the levels top and bronze overlap: /srv/pool/top lies within /srv/pool");
    assert_string_equal(said[0], "the levels gold and twin show the same files: /srv/gold and "
                                 "/srv/gold/ are one directory");
    ladder_release(&l);
}

static void the_same(void **state) {
    (void)state;
    struct ladder a, b;
    ladder_init(&a);
    ladder_init(&b);
    assert_true(ladder_same(&a, &b));
    assert_int_equal(ladder_add(&a, str_view("x"), str_view("/x"), 1), 0);
    assert_false(ladder_same(&a, &b));
    assert_int_equal(ladder_add(&b, str_view("x"), str_view("/y"), 1), 0);
    assert_false(ladder_same(&a, &b));
    ladder_release(&b);
    assert_int_equal(ladder_add(&b, str_view("x"), str_view("/x"), 1), 0);
    assert_true(ladder_same(&a, &b));
    ladder_release(&b);
    assert_int_equal(ladder_add(&b, str_view("x"), str_view("/x"), 2), 0);
    assert_false(ladder_same(&a, &b));
    ladder_release(&a);
    ladder_release(&b);
}

/* ---- what is seen of directories ---- */

static struct overlaps found; /* large */

/* Makes a folder, and opens it as a level. */
static struct overlaps_level folder(char path[64], const char *top, const char *name) {
    snprintf(path, 64, "%s/%s", top, name);
    (void)mkdir(path, 0700);
    struct overlaps_level l = {name, path, open(path, O_RDONLY | O_DIRECTORY)};
    assert_true(l.dir >= 0);
    return l;
}

static void directories(void **state) {
    (void)state;
    char top[] = "/tmp/tierd-overlap.XXXXXX", paths[4][64], link[64];
    assert_non_null(mkdtemp(top));
    struct overlaps_level l[5] = {folder(paths[0], top, "a"),
                                  folder(paths[1], top, "b"),
                                  folder(paths[2], top, "a/in"),
                                  folder(paths[3], top, "a/in/deep"),
                                  {"link", link, -1}};
    snprintf(link, sizeof link, "%s/link", top);
    assert_int_equal(symlink("b", link), 0);
    l[4].dir = open(link, O_RDONLY | O_DIRECTORY);
    l[2].path = "/elsewhere/in"; /* so that nothing is known from the text */
    l[3].path = "/elsewhere/else";
    overlaps_judge(&found, l, 5);
    const enum overlap expected[5][5] = {
        [1] = {[4] = OVERLAP_SAME},
        [2] = {[0] = OVERLAP_WITHIN},
        [3] = {[0] = OVERLAP_WITHIN, [2] = OVERLAP_WITHIN},
    };
    for (size_t a = 0; a < 5; a++)
        for (size_t b = 0; b < 5; b++)
            assert_int_equal(found.kind[a][b], expected[a][b]);
    size_t a = 0, b = 3, with;
    assert_int_equal(overlaps_between(&found, &a, &b), OVERLAP_WITHIN);
    assert_true(a == 3 && b == 0);
    assert_true(overlaps_nested(&found, 5, 0, &with) && with == 2);
    assert_false(overlaps_nested(&found, 5, 1, &with));
    assert_false(overlaps_nested(&found, 5, 4, &with));
    for (size_t i = 0; i < 5; i++)
        close(l[i].dir);
    char command[64];
    snprintf(command, sizeof command, "find %s -name '.tierd*' | grep .", top);
    assert_int_not_equal(system(command), 0); /* no probe is left */
    snprintf(command, sizeof command, "rm -r %s", top);
    assert_int_equal(system(command), 0);
}

/* What cannot be opened is known from its path alone. */
static void not_there(void **state) {
    (void)state;
    const struct overlaps_level l[] = {{"a", "/a", -1}, {"b", "/a/b", -1}, {"c", "/c", -1}};
    size_t with;
    overlaps_judge(&found, l, 3);
    assert_true(overlaps_nested(&found, 3, 0, &with) && with == 1);
    assert_true(overlaps_nested(&found, 3, 1, &with) && with == 0);
    assert_false(overlaps_nested(&found, 3, 2, &with));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths),    cmocka_unit_test(sentences),   cmocka_unit_test(ladders),
        cmocka_unit_test(the_same), cmocka_unit_test(directories), cmocka_unit_test(not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
