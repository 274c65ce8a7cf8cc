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
 */
#ifndef TIERD_NET_LOOP_H
#define TIERD_NET_LOOP_H

#include <stdbool.h>
#include <stdint.h>

struct loop;

/* A watched descriptor. The owner sets fd, ready and ctx; `events` is kept by the loop. */
struct loop_io {
    int fd;
    uint32_t events; /* EPOLLIN | EPOLLOUT | ..., 0 while not in the loop */
    void (*ready)(void *ctx, uint32_t events);
    void *ctx;
};

/* A one-shot timer. The owner sets fire and ctx; `slot` is 0 while it is not armed. */
struct loop_timer {
    int64_t due_ms; /* clock_mono_ms */
    uint32_t slot;
    void (*fire)(void *ctx);
    void *ctx;
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

/* Watches io->fd for `events`; changes the set when it is watched already; 0 takes it out.
 * 0 or -errno (epoll_ctl(2)). */
int loop_io_set(struct loop *loop, struct loop_io *io, uint32_t events);

/* Arms (or re-arms) `timer` for `due_ms` on clock_mono_ms. 0 or -ENOMEM. */
int loop_timer_set(struct loop *loop, struct loop_timer *timer, int64_t due_ms);

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
