#include "net/loop.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"

/* Events taken from the kernel in one turn: enough that a turn is worth its system call, few enough
 * that timers are looked at often. */
enum { TURN_EVENTS = 256 };

struct loop {
    int epoll_fd;
    bool stopping;
    int64_t now_ms;
    struct loop_timer **heap; /* binary heap by due_ms; heap[0] is unused, slots count from 1 */
    uint32_t timers;
    uint32_t heap_cap;
    struct loop_deferred *deferred_first;
    struct loop_deferred **deferred_last;
};

struct loop *loop_new(void) {
    struct loop *loop = calloc(1, sizeof *loop);
    if (!loop)
        return NULL;
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd < 0) {
        free(loop);
        return NULL;
    }
    loop->now_ms = clock_mono_ms();
    loop->deferred_last = &loop->deferred_first;
    return loop;
}

void loop_free(struct loop *loop) {
    if (!loop)
        return;
    close(loop->epoll_fd);
    free(loop->heap);
    free(loop);
}

int loop_io_set(struct loop *loop, struct loop_io *io, uint32_t events) {
    if (events == io->events)
        return 0;
    int op = io->events == 0 ? EPOLL_CTL_ADD : events == 0 ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
    struct epoll_event ev = {.events = events, .data.ptr = io};
    if (epoll_ctl(loop->epoll_fd, op, io->fd, &ev) < 0)
        return -errno;
    io->events = events;
    return 0;
}

static void heap_put(struct loop *loop, uint32_t slot, struct loop_timer *timer) {
    loop->heap[slot] = timer;
    timer->slot = slot;
}

static void heap_up(struct loop *loop, uint32_t slot, struct loop_timer *timer) {
    while (slot > 1 && loop->heap[slot / 2]->due_ms > timer->due_ms) {
        heap_put(loop, slot, loop->heap[slot / 2]);
        slot /= 2;
    }
    heap_put(loop, slot, timer);
}

static void heap_down(struct loop *loop, uint32_t slot, struct loop_timer *timer) {
    for (;;) {
        uint32_t child = slot * 2;
        if (child > loop->timers)
            break;
        if (child < loop->timers && loop->heap[child + 1]->due_ms < loop->heap[child]->due_ms)
            child++;
        if (loop->heap[child]->due_ms >= timer->due_ms)
            break;
        heap_put(loop, slot, loop->heap[child]);
        slot = child;
    }
    heap_put(loop, slot, timer);
}

int loop_timer_set(struct loop *loop, struct loop_timer *timer, int64_t due_ms) {
    assert(timer->fire);
    if (timer->slot) {
        int64_t old_ms = timer->due_ms;
        timer->due_ms = due_ms;
        if (due_ms < old_ms)
            heap_up(loop, timer->slot, timer);
        else
            heap_down(loop, timer->slot, timer);
        return 0;
    }
    if (loop->timers + 1 >= loop->heap_cap) {
        uint32_t cap = loop->heap_cap ? loop->heap_cap * 2 : 64;
        struct loop_timer **heap = realloc(loop->heap, cap * sizeof(*heap));
        if (!heap)
            return -ENOMEM;
        loop->heap = heap;
        loop->heap_cap = cap;
    }
    timer->due_ms = due_ms;
    heap_up(loop, ++loop->timers, timer);
    return 0;
}

void loop_timer_cancel(struct loop *loop, struct loop_timer *timer) {
    uint32_t slot = timer->slot;
    if (slot == 0)
        return;
    timer->slot = 0;
    struct loop_timer *last = loop->heap[loop->timers--];
    if (last == timer)
        return;
    if (slot > 1 && loop->heap[slot / 2]->due_ms > last->due_ms)
        heap_up(loop, slot, last);
    else
        heap_down(loop, slot, last);
}

void loop_defer(struct loop *loop, struct loop_deferred *d) {
    if (d->queued)
        return;
    d->queued = true;
    d->next = NULL;
    *loop->deferred_last = d;
    loop->deferred_last = &d->next;
}

int64_t loop_now_ms(const struct loop *loop) {
    return loop->now_ms;
}

static int next_wait_ms(const struct loop *loop) {
    if (loop->deferred_first)
        return 0;
    if (loop->timers == 0)
        return -1;
    int64_t wait = loop->heap[1]->due_ms - clock_mono_ms();
    return wait < 0 ? 0 : wait > 60000 ? 60000 : (int)wait;
}

static void run_timers(struct loop *loop) {
    while (loop->timers && loop->heap[1]->due_ms <= loop->now_ms) {
        struct loop_timer *timer = loop->heap[1];
        loop_timer_cancel(loop, timer);
        timer->fire(timer->ctx);
    }
}

/* Calls what is queued now; what these calls queue waits for the next turn, so a turn ends. */
static void run_deferred(struct loop *loop) {
    struct loop_deferred *d = loop->deferred_first;
    loop->deferred_first = NULL;
    loop->deferred_last = &loop->deferred_first;
    while (d) {
        struct loop_deferred *next = d->next;
        d->queued = false;
        d->call(d->ctx); /* may free d */
        d = next;
    }
}

int loop_run(struct loop *loop) {
    struct epoll_event events[TURN_EVENTS];
    loop->stopping = false;
    while (!loop->stopping) {
        int n = epoll_wait(loop->epoll_fd, events, TURN_EVENTS, next_wait_ms(loop));
        if (n < 0 && errno != EINTR)
            return -errno;
        loop->now_ms = clock_mono_ms();
        for (int i = 0; i < n; i++) {
            struct loop_io *io = events[i].data.ptr;
            if (io->events) /* a handler before it in this turn may have taken it out */
                io->ready(io->ctx, events[i].events);
        }
        run_timers(loop);
        run_deferred(loop);
    }
    return 0;
}

void loop_stop(struct loop *loop) {
    loop->stopping = true;
}
