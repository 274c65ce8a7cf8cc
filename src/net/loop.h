/*
 * loop: one epoll loop for one process, with timers and deferred calls. Nothing that it calls may
 * block.
 *
 * loop_new -> loop_io_add / loop_timer_set / loop_defer -> loop_run -> (loop_stop) -> loop_free.
 *
 * Ownership: the loop owns no io and no timer; their owner embeds them and takes them out before it
 * frees itself. Events of one turn are collected before they are run, so an object must not be
 * freed by a handler while it may still have an event in the same turn: take it out of the loop and
 * free it in a deferred call. One turn is: ready events, due timers, deferred calls.
 *
 * A descriptor that is closed is dropped by the kernel without a word (epoll(7)), and its number
 * soon stands for another one. Libraries close theirs by themselves. So the loop knows whose each
 * number is: what is taken out never takes out another's, and a number that is watched anew ends
 * what was believed of it. Only that its own number stands for a new socket no owner can be told:
 * take an io out before a call that may close its descriptor and open the next.
 */
#ifndef TIERD_NET_LOOP_H
#define TIERD_NET_LOOP_H

#include <stdbool.h>
#include <stdint.h>

struct loop;

/* A watched descriptor. The owner sets fd, ready and ctx; the rest is kept by the loop. */
struct loop_io {
    int fd;
    int at;          /* the descriptor that is watched, while one is */
    uint32_t events; /* EPOLLIN | EPOLLOUT | ..., 0 while not in the loop */
    void (*ready)(void *ctx, uint32_t events);
    void *ctx;
};

/* A one-shot timer. The owner sets fire and ctx. Its place among the others is in itself, so that
 * arming it needs no memory, and cannot fail: a reconnect that is not planned never comes. */
struct loop_timer {
    int64_t due_ms; /* clock_mono_ms */
    void (*fire)(void *ctx);
    void *ctx;
    struct loop_timer *child, *next, **at; /* kept by the loop; `at` is NULL while not armed */
};

/* A call to make at the end of this turn. The owner sets call and ctx; at most once queued. */
struct loop_deferred {
    void (*call)(void *ctx);
    void *ctx;
    struct loop_deferred *next;
    bool queued;
};

/* A new loop, or NULL with errno (epoll_create1(2), memory). */
struct loop *loop_new(void);

/* Frees the loop; descriptors stay open, they are their owners'. NULL is allowed. */
void loop_free(struct loop *loop);

/* Watches io->fd for `events`; changes the set when it is watched already; 0 takes it out, which
 * cannot fail, whoever closed the descriptor. 0, -ENOMEM or another -errno of epoll_ctl(2): then it
 * is not in the loop. */
int loop_io_set(struct loop *loop, struct loop_io *io, uint32_t events);

/* Arms (or re-arms) `timer` for `due_ms` on clock_mono_ms. */
void loop_timer_set(struct loop *loop, struct loop_timer *timer, int64_t due_ms);
bool loop_timer_armed(const struct loop_timer *timer);

/* Disarms `timer`; harmless when it is not armed. */
void loop_timer_cancel(struct loop *loop, struct loop_timer *timer);

/* Queues `d` to be called at the end of this turn, once. */
void loop_defer(struct loop *loop, struct loop_deferred *d);

/* clock_mono_ms at the start of this turn: cheap, for deadlines. */
int64_t loop_now_ms(const struct loop *loop);

/* Runs until loop_stop: 0, or -errno of epoll_wait(2). */
int loop_run(struct loop *loop);

/* Makes loop_run return after the present turn. */
void loop_stop(struct loop *loop);

#endif
