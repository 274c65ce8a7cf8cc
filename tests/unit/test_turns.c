/* base/turns: what processes know of each other. */
#include "base/turns.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "unit.h"

static void levels_are_entered_and_left(void **state) {
    struct turns *t = turns_new();
    struct turn *turn = turns_take(t);
    char text[TURNS_TEXT_BYTES];
    const char *job[] = {"gold", "bronze", "gold"}, *all[] = {"gold", "silver"};
    (void)state;
    assert_false(turn_is_in_level(turn));
    size_t before = turn_enter(turn, job, 3), within = turn_enter(turn, all, 2);
    turn_text(t, turn, text);
    assert_string_equal(text, "gold, bronze, silver");
    turn_leave(turn, within);
    turn_text(t, turn, text);
    assert_string_equal(text, "gold, bronze");
    turn_leave(turn, before);
    assert_false(turn_is_in_level(turn));
    assert_false(turns_any_hung(t));
    turn_now(NULL);
    turn_leave(NULL, turn_enter(NULL, job, 2));
    assert_true(turn_looked(t, NULL));
}

/* A level hangs for a process that looks: another process, for a while. */
static pid_t hang(struct turns *t, struct turn *looker, const char *level) {
    pid_t pid = fork();
    if (pid == 0) {
        turn_look(looker, level);
        for (;;)
            pause();
    }
    int64_t until_ms = clock_mono_ms() + 4 * TURNS_HUNG_MS;
    while (!turns_any_hung(t) && clock_mono_ms() < until_ms)
        poll(NULL, 0, 10);
    return pid;
}

static void end(pid_t pid) {
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* Another process looks, and does not come back; then it does, or is gone. */
static void a_look_that_does_not_come_back(void **state) {
    struct turns *t = turns_new();
    struct turn *looker = turns_take(t), *worker = turns_take(t);
    const char *gold[] = {"gold"}, *both[] = {"bronze", "gold"};
    char text[TURNS_TEXT_BYTES];
    (void)state;
    pid_t pid = hang(t, looker, "gold");
    assert_true(turns_hung_ms(t, "gold") >= TURNS_HUNG_MS);
    assert_int_equal(turns_hung_ms(t, "silver"), 0);
    turn_enter(worker, both, 2);
    assert_true(turn_is_in_hung(t, worker));
    turn_text(t, worker, text);
    assert_string_equal(text, "gold");
    turn_give_up(looker);
    end(pid);
    assert_false(turn_looked(t, looker)); /* it answers; but another looks by now */
    assert_int_equal(turns_hung_ms(t, "gold"), 0);
    turns_drop(looker);
    assert_ptr_equal(turns_take(t), looker);
    turn_look(looker, gold[0]);
    assert_true(turn_looked(t, looker));
}

/* A level is known to answer once a look has come back; after a reload nothing is known, of one
 * that hangs neither. */
static void levels_are_looked_at_anew(void **state) {
    struct turns *t = turns_new();
    struct turn *looker = turns_take(t), *next = turns_take(t);
    (void)state;
    pid_t pid = hang(t, looker, "gold");
    turn_give_up(looker);
    assert_false(turns_looked_at(t, "gold"));
    turn_look(next, "silver");
    assert_false(turns_looked_at(t, "silver"));
    assert_true(turn_looked(t, next));
    assert_true(turns_looked_at(t, "silver"));
    turns_look_anew(t);
    assert_false(turns_looked_at(t, "silver"));
    assert_int_equal(turns_hung_ms(t, "gold"), 0);
    assert_true(turns_looked_at(NULL, "gold"));
    end(pid);
}

static void what_all_see_is_said_once(void **state) {
    struct turns *t = turns_new();
    (void)state;
    assert_true(turns_is_first(t, "the levels a and b"));
    assert_false(turns_is_first(t, "the levels a and b"));
    assert_true(turns_is_first(t, "the levels a and c"));
    assert_true(turns_is_first(NULL, "the levels a and b"));
}

/* Of who is killed for a level that hangs, once; of others nothing. */
static void what_it_held_is_left_to_the_others(void **state) {
    struct turns *t = turns_new();
    struct turn *looker = turns_take(t), *hangs = turns_take(t), *idle = turns_take(t);
    const char *both[] = {"bronze", "gold"}, *silver[] = {"silver"};
    struct turn_holds held = {.who = "w.1", .n = 2, .each = {{7, 70}, {8, 80}}}, left;
    char levels[TURNS_TEXT_BYTES];
    (void)state;
    pid_t pid = hang(t, looker, "gold");
    turn_hold(hangs, &held);
    turn_enter(hangs, both, 2);
    held.each[0].id = 9;
    turn_hold(idle, &held);
    turn_enter(idle, silver, 1);
    turn_kill(t, hangs);
    turn_kill(t, idle);
    end(pid);
    assert_null(turns_left(t, &left, levels)); /* it may still work on it */
    turn_give_up(hangs);
    turns_drop(idle);
    assert_ptr_equal(turns_left(t, &left, levels), hangs);
    assert_null(turns_left(t, &held, levels)); /* one does it */
    turns_let_go(hangs, false);
    turns_drop(hangs);
    assert_ptr_equal(turns_take(t), idle); /* that of the other is kept for who does it */
    assert_ptr_equal(turns_left(t, &left, levels), hangs);
    assert_string_equal(levels, "gold");
    assert_string_equal(left.who, "w.1");
    assert_int_equal(left.n, 2);
    assert_int_equal(left.each[1].token, 80);
    turns_let_go(hangs, true);
    assert_null(turns_left(t, &left, levels));
    assert_ptr_equal(turns_take(t), hangs);
    turns_drop(hangs);
    assert_null(turns_left(t, &left, levels));
}

static void places_are_bounded(void **state) {
    struct turns *t = turns_new();
    (void)state;
    for (int i = 0; i < TURNS_MAX; i++)
        assert_non_null(turns_take(t));
    assert_null(turns_take(t));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levels_are_entered_and_left),
        cmocka_unit_test(a_look_that_does_not_come_back),
        cmocka_unit_test(what_all_see_is_said_once),
        cmocka_unit_test(levels_are_looked_at_anew),
        cmocka_unit_test(what_it_held_is_left_to_the_others),
        cmocka_unit_test(places_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
