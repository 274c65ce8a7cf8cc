/* base/causes: said once, then counted; what the table cannot keep is said each time. */
#include "base/causes.h"

#include <stdio.h>
#include <string.h>

#include "unit.h"

struct told {
    size_t n;
    uint64_t more;
    char text[CAUSE_BYTES];
};

static void say(void *ctx, const char *text, uint64_t more) {
    struct told *t = ctx;
    t->n++;
    t->more = more;
    snprintf(t->text, sizeof t->text, "%s", text);
}

static void a_cause_is_said_once_and_counted(void **state) {
    static struct causes c;
    struct told t = {0};
    (void)state;
    memset(&c, 0, sizeof c);
    assert_true(causes_is_new(&c, "put off", "hard links", 0));
    for (int i = 0; i < 1204; i++)
        assert_false(causes_is_new(&c, "put off", "hard links", i));
    assert_true(causes_is_new(&c, "put off", "open for writing", 0));
    assert_true(causes_is_new(&c, "left", "hard links", 0));
    causes_tell(&c, CAUSES_FIRST_MS - 1, say, &t);
    assert_int_equal(t.n, 0);
    causes_tell(&c, CAUSES_FIRST_MS, say, &t);
    assert_int_equal(t.n, 1);
    assert_int_equal(t.more, 1204);
    assert_string_equal(t.text, "put off: hard links");
    assert_true(causes_is_new(&c, "left", "hard links", CAUSES_FIRST_MS)); /* it was forgotten */
}

static void intervals_grow_up_to_a_bound(void **state) {
    static struct causes c;
    struct told t = {0};
    int64_t now_ms = 0, last_ms = 0, longest_ms = 0;
    (void)state;
    memset(&c, 0, sizeof c);
    assert_true(causes_is_new(&c, "a", "", now_ms));
    for (; now_ms < 10 * CAUSES_MOST_MS; now_ms += 1000) {
        size_t before = t.n;
        assert_false(causes_is_new(&c, "a", "", now_ms));
        causes_tell(&c, now_ms, say, &t);
        if (t.n == before)
            continue;
        assert_true(now_ms - last_ms >= longest_ms || longest_ms >= CAUSES_MOST_MS);
        longest_ms = now_ms - last_ms;
        last_ms = now_ms;
    }
    assert_true(longest_ms >= CAUSES_MOST_MS && longest_ms <= CAUSES_MOST_MS + 1000);
    assert_true(t.n < 20);
}

static void what_the_table_cannot_keep_is_said_each_time(void **state) {
    static struct causes c;
    char why[32];
    (void)state;
    memset(&c, 0, sizeof c);
    for (int i = 0; i < CAUSES_MAX; i++) {
        snprintf(why, sizeof why, "%d", i);
        assert_true(causes_is_new(&c, "a", why, 0));
    }
    assert_true(causes_is_new(&c, "a", "one more", 0));
    assert_true(causes_is_new(&c, "a", "one more", 0));
    assert_false(causes_is_new(&c, "a", "7", 0));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cause_is_said_once_and_counted),
        cmocka_unit_test(intervals_grow_up_to_a_bound),
        cmocka_unit_test(what_the_table_cannot_keep_is_said_each_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
