/*
 * The loop: descriptors that are closed behind its back, and timers against a plain list.
 */
#include "unit.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/loop.h"

enum { GUARD_MS = 20000, TIMERS = 500, STEPS = 20000 };

struct watch {
    struct loop *loop;
    struct loop_io io;
    int peer;
    int seen;
};

static void on_ready(void *p, uint32_t events) {
    struct watch *w = p;
    (void)events;
    w->seen++;
    loop_io_set(w->loop, &w->io, 0);
    loop_stop(w->loop);
}

/* A pair whose one end is `io`'s; the other is written to to make it ready. */
static void open_pair(struct watch *w, struct loop *loop) {
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    w->loop = loop;
    w->io.fd = fds[0];
    w->io.ready = on_ready;
    w->io.ctx = w;
    w->peer = fds[1];
}

static void close_pair(struct watch *w) {
    loop_io_set(w->loop, &w->io, 0);
    close(w->io.fd);
    close(w->peer);
}

static void stop(void *loop) {
    loop_stop(loop);
}

/* Runs until something is ready; a loop that waits for what it dropped ends by the guard. */
static void run(struct loop *loop) {
    struct loop_timer guard = {.fire = stop, .ctx = loop};
    loop_timer_set(loop, &guard, loop_now_ms(loop) + GUARD_MS);
    assert_int_equal(loop_run(loop), 0);
    assert_true(loop_timer_armed(&guard));
    loop_timer_cancel(loop, &guard);
}

static void expect_ready(struct watch *w) {
    int before = w->seen;
    assert_int_equal(write(w->peer, "x", 1), 1);
    run(w->loop);
    assert_int_equal(w->seen, before + 1);
}

/* As Connector/C does with a refused connection: the number stands for the next socket. */
static void closed_before_it_is_taken_out(void **state) {
    (void)state;
    struct loop *loop = loop_new();
    struct watch w = {0};
    open_pair(&w, loop);
    int number = w.io.fd;
    assert_int_equal(loop_io_set(loop, &w.io, EPOLLIN), 0);
    close(w.io.fd);
    close(w.peer);
    assert_int_equal(loop_io_set(loop, &w.io, 0), 0);
    assert_int_equal(w.io.events, 0);
    open_pair(&w, loop);
    assert_int_equal(w.io.fd, number);
    assert_int_equal(loop_io_set(loop, &w.io, EPOLLIN), 0);
    expect_ready(&w);
    close_pair(&w);
    loop_free(loop);
}

/* The number went to another owner: taking the old one out must leave the new one in. */
static void closed_and_the_number_is_anothers(void **state) {
    (void)state;
    struct loop *loop = loop_new();
    struct watch old = {0}, new = {0};
    open_pair(&old, loop);
    assert_int_equal(loop_io_set(loop, &old.io, EPOLLIN), 0);
    close(old.io.fd);
    close(old.peer);
    open_pair(&new, loop);
    assert_int_equal(new.io.fd, old.io.fd);
    assert_int_equal(loop_io_set(loop, &new.io, EPOLLIN), 0);
    assert_int_equal(loop_io_set(loop, &old.io, 0), 0);
    expect_ready(&new);
    close_pair(&new);
    loop_free(loop);
}

/* The same before the old one is asked for other events, on its number or on another. */
static void changed_after_it_was_closed(void **state) {
    (void)state;
    struct loop *loop = loop_new();
    struct watch w = {0}, other = {0};
    open_pair(&w, loop);
    assert_int_equal(loop_io_set(loop, &w.io, EPOLLIN), 0);
    close(w.io.fd);
    close(w.peer);
    open_pair(&w, loop);
    assert_int_equal(loop_io_set(loop, &w.io, EPOLLIN | EPOLLPRI), 0);
    expect_ready(&w);
    assert_int_equal(loop_io_set(loop, &w.io, EPOLLIN), 0);
    open_pair(&other, loop);
    int first = w.io.fd, first_peer = w.peer;
    w.io.fd = other.io.fd; /* its owner has a new descriptor for it */
    w.peer = other.peer;
    assert_int_equal(loop_io_set(loop, &w.io, EPOLLIN), 0);
    read(w.io.fd, (char[1]){0}, 1);
    expect_ready(&w);
    close(first);
    close(first_peer);
    close_pair(&w);
    loop_free(loop);
}

static void a_closed_one_is_refused(void **state) {
    (void)state;
    struct loop *loop = loop_new();
    struct watch w = {0};
    open_pair(&w, loop);
    close(w.io.fd);
    close(w.peer);
    assert_true(loop_io_set(loop, &w.io, EPOLLIN) < 0);
    assert_int_equal(w.io.events, 0);
    w.io.fd = -1;
    assert_true(loop_io_set(loop, &w.io, EPOLLIN) < 0);
    loop_free(loop);
}

/* ---- timers ---- */

struct timers {
    struct loop *loop;
    struct timer {
        struct loop_timer timer;
        struct timers *all;
        bool armed;
    } timer[TIMERS];
    size_t armed;
    int64_t last_ms;
    uint32_t random;
};

static uint32_t next_random(struct timers *t) { /* xorshift32 */
    t->random ^= t->random << 13;
    t->random ^= t->random >> 17;
    t->random ^= t->random << 5;
    return t->random;
}

/* Each fires once, never before one that is due earlier. */
static void on_fire(void *p) {
    struct timer *timer = p;
    struct timers *t = timer->all;
    assert_true(timer->armed);
    assert_false(loop_timer_armed(&timer->timer));
    assert_true(timer->timer.due_ms >= t->last_ms);
    for (size_t i = 0; i < TIMERS; i++)
        assert_true(!t->timer[i].armed || t->timer[i].timer.due_ms >= timer->timer.due_ms);
    t->last_ms = timer->timer.due_ms;
    timer->armed = false;
    if (--t->armed == 0)
        loop_stop(t->loop);
}

static void timers_fire_in_order(void **state) {
    (void)state;
    static struct timers t;
    t = (struct timers){.loop = loop_new(), .random = 2463534242};
    int64_t base_ms = loop_now_ms(t.loop) - 1000;
    for (size_t i = 0; i < TIMERS; i++)
        t.timer[i] = (struct timer){.timer = {.fire = on_fire, .ctx = &t.timer[i]}, .all = &t};
    for (size_t i = 0; i < STEPS; i++) { /* armed, moved to and fro, disarmed */
        struct timer *timer = &t.timer[next_random(&t) % TIMERS];
        bool arm = next_random(&t) % 4 != 0;
        if (arm)
            loop_timer_set(t.loop, &timer->timer, base_ms + next_random(&t) % 1000);
        else
            loop_timer_cancel(t.loop, &timer->timer);
        t.armed = t.armed + arm - timer->armed;
        timer->armed = arm;
        assert_int_equal(loop_timer_armed(&timer->timer), arm);
    }
    assert_true(t.armed > TIMERS / 2);
    assert_int_equal(loop_run(t.loop), 0);
    for (size_t i = 0; i < TIMERS; i++)
        assert_false(t.timer[i].armed);
    loop_free(t.loop);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(closed_before_it_is_taken_out),
        cmocka_unit_test(closed_and_the_number_is_anothers),
        cmocka_unit_test(changed_after_it_was_closed),
        cmocka_unit_test(a_closed_one_is_refused),
        cmocka_unit_test(timers_fire_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
