#include "unit.h"

#include <errno.h>
#include <string.h>

#include "job/policy.h"

enum { BRONZE, SILVER, GOLD };

static struct ladder ladder;
static struct level_use use[3];

static int setup(void **state) {
    (void)state;
    ladder_init(&ladder);
    memset(use, 0, sizeof use);
    assert_int_equal(ladder_add(&ladder, str_view("bronze"), str_view("/b"), 0), 0);
    assert_int_equal(ladder_add(&ladder, str_view("silver"), str_view("/s"), 1000), 0);
    assert_int_equal(ladder_add(&ladder, str_view("gold"), str_view("/g"), 2000), 0);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    ladder_release(&ladder);
    return 0;
}

static void check(const struct policy *p, const char *level, uint64_t count, int64_t age_ms,
                  const char *target, enum policy_rule rule) {
    struct policy_question q = {&ladder, level, count, age_ms, use};
    struct policy_answer a = policy_decide(p, &q);
    char text[256];
    assert_string_equal(a.target->name, target);
    assert_string_equal(policy_rule_name(a.rule), policy_rule_name(rule));
    policy_sentence(p, &q, &a, text, sizeof text);
    assert_true(strlen(text) > 10);
    if (rule > POLICY_STAYS)
        assert_non_null(strstr(text, policy_rule_name(rule)));
}

static struct policy options(const char *margin, int64_t residency_ms, const char *max_use) {
    struct policy p;
    const char *option;
    assert_int_equal(policy_init(&p, margin, residency_ms, max_use, &option), 0);
    return p;
}

/* Off by default: the ladder alone. */
static void ladder_alone(void **state) {
    (void)state;
    struct policy p = options(NULL, 0, NULL);
    use[GOLD] = (struct level_use){true, 100, 0};
    check(&p, "bronze", 0, 0, "bronze", POLICY_STAYS);
    check(&p, "bronze", 999, 0, "bronze", POLICY_STAYS);
    check(&p, "bronze", 1000, 0, "silver", POLICY_LADDER);
    check(&p, "bronze", 2000, 0, "gold", POLICY_LADDER);
    check(&p, "gold", 1999, 0, "silver", POLICY_LADDER);
    check(&p, "gold", 0, 0, "bronze", POLICY_LADDER);
    check(&p, "gone", 1500, 0, "silver", POLICY_LADDER);
}

/* Only below (1 - m) times the threshold of the level it is at. */
static void margin(void **state) {
    (void)state;
    struct policy p = options("10%", 0, NULL);
    check(&p, "gold", 1999, 0, "gold", POLICY_MARGIN);
    check(&p, "gold", 1800, 0, "gold", POLICY_MARGIN);
    check(&p, "gold", 1799, 0, "silver", POLICY_LADDER);
    check(&p, "gold", 950, 0, "bronze", POLICY_LADDER);
    check(&p, "silver", 900, 0, "silver", POLICY_MARGIN);
    check(&p, "silver", 899, 0, "bronze", POLICY_LADDER);
    check(&p, "bronze", 2000, 0, "gold", POLICY_LADDER); /* promotions have no margin */
    p = options("100%", 0, NULL);
    check(&p, "gold", 0, 0, "gold", POLICY_MARGIN);
    p = options("0%", 0, NULL);
    check(&p, "gold", 1999, 0, "silver", POLICY_LADDER);
}

static void margin_of_huge_counts(void **state) {
    (void)state;
    struct policy p = options("50%", 0, NULL);
    assert_int_equal(ladder_add(&ladder, str_view("top"), str_view("/t"), UINT64_MAX), 0);
    check(&p, "top", INT64_MAX, 0, "gold", POLICY_LADDER); /* half of 2^64-1, rounded up, is 2^63 */
    check(&p, "top", (uint64_t)INT64_MAX + 1, 0, "top", POLICY_MARGIN);
}

static void residency(void **state) {
    (void)state;
    struct policy p = options(NULL, 60000, NULL);
    check(&p, "bronze", 5000, 59999, "bronze", POLICY_RESIDENCY);
    check(&p, "gold", 0, 59999, "gold", POLICY_RESIDENCY);
    check(&p, "gold", 0, 60000, "bronze", POLICY_LADDER);
    check(&p, "gold", 0, -1, "bronze", POLICY_LADDER); /* not known when it came */
    check(&p, "gold", 2500, 0, "gold", POLICY_STAYS);
}

static void max_use(void **state) {
    (void)state;
    struct policy p = options(NULL, 0, "gold=80%,90%");
    use[GOLD] = (struct level_use){true, 80, 20};
    check(&p, "bronze", 5000, 0, "gold", POLICY_LADDER); /* 80% is not fuller than 80% */
    use[GOLD] = (struct level_use){true, 801, 199};
    check(&p, "bronze", 5000, 0, "silver", POLICY_MAX_USE);
    check(&p, "silver", 5000, 0, "silver", POLICY_MAX_USE);
    use[SILVER] = (struct level_use){true, 90, 10};
    check(&p, "bronze", 5000, 0, "silver", POLICY_MAX_USE);
    use[SILVER] = (struct level_use){true, 91, 9};
    check(&p, "bronze", 5000, 0, "bronze", POLICY_MAX_USE);
    check(&p, "gold", 1500, 0, "silver", POLICY_LADDER); /* making room is always allowed */
    use[GOLD].known = false;
    check(&p, "bronze", 5000, 0, "gold", POLICY_LADDER);
}

/* The rules together: residency first, since it holds for both ways. */
static void together(void **state) {
    (void)state;
    struct policy p = options("20%", 1000, "90%");
    use[GOLD] = (struct level_use){true, 99, 1};
    check(&p, "bronze", 5000, 10, "bronze", POLICY_RESIDENCY);
    check(&p, "bronze", 5000, 2000, "silver", POLICY_MAX_USE);
    check(&p, "silver", 850, 2000, "silver", POLICY_MARGIN);
}

static void no_levels(void **state) {
    (void)state;
    struct policy p = options(NULL, 0, NULL);
    struct ladder none;
    ladder_init(&none);
    struct policy_question q = {&none, "bronze", 1, 0, NULL};
    struct policy_answer a = policy_decide(&p, &q);
    assert_null(a.target);
    assert_int_equal(a.rule, POLICY_NO_LEVELS);
}

static void bad_options(void **state) {
    (void)state;
    struct policy p = {.demote_margin_percent = 7};
    const char *option;
    const char *const margins[] = {"", "%", "10", "101%", "-1%", "1.5%", " 1%", "1 %"};
    for (size_t i = 0; i < sizeof margins / sizeof *margins; i++) {
        assert_int_equal(policy_init(&p, margins[i], 0, NULL, &option), -EINVAL);
        assert_string_equal(option, "demote-margin");
    }
    const char *const shares[] = {"",       "90",        "=90%",       "gold=",   "gold=90",
                                  ",",      "90%,",      ",90%",       "gold:9%", "gold=1%,,2%",
                                  "a=b=9%", "gold=101%", "gold=90%,x", "=",       "90%%"};
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
        assert_int_equal(policy_init(&p, NULL, 0, shares[i], &option), -EINVAL);
        assert_string_equal(option, "max-use");
    }
    assert_int_equal(p.demote_margin_percent, 7); /* written only on success */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(ladder_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(margin, setup, teardown),
        cmocka_unit_test_setup_teardown(margin_of_huge_counts, setup, teardown),
        cmocka_unit_test_setup_teardown(residency, setup, teardown),
        cmocka_unit_test_setup_teardown(max_use, setup, teardown),
        cmocka_unit_test_setup_teardown(together, setup, teardown),
        cmocka_unit_test(no_levels),
        cmocka_unit_test(bad_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
