#include "net/loop.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"

/* Events taken from the kernel in one turn: enough that a turn is worth its system call, few enough
 * that timers are looked at often. */
enum {
    TURN_EVENTS = 256,
    FIRST_FDS = 64, /* descriptors that are known at first; doubled as need be */
};

struct loop {
    int epoll_fd;
    bool stopping;
    int64_t now_ms;
    struct loop_io **owners; /* by descriptor: who watches it, or NULL */
    size_t n_owners;
    struct loop_timer *timers; /* a pairing heap by due_ms: the first one is due first */
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
    free(loop->owners);
    free(loop);
}

/* ---- descriptors ---- */

/* Makes room for `fd` among the owners: 0 or -ENOMEM. */
static int know_fd(struct loop *loop, int fd) {
    size_t n = loop->n_owners ? loop->n_owners : FIRST_FDS;
    if ((size_t)fd < loop->n_owners)
        return 0;
    while (n <= (size_t)fd)
        n *= 2;
    struct loop_io **owners = realloc(loop->owners, n * sizeof(*owners));
    if (!owners)
        return -ENOMEM;
    memset(owners + loop->n_owners, 0, (n - loop->n_owners) * sizeof(*owners));
    loop->owners = owners;
    loop->n_owners = n;
    return 0;
}

/* The kernel may have dropped it before us, EBADF or ENOENT say so: then all is as it should be. */
static void take_out(struct loop *loop, struct loop_io *io) {
    if (io->events && loop->owners[io->at] == io) {
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, io->at, NULL);
        loop->owners[io->at] = NULL;
    }
    io->events = 0;
}

static int put_in(struct loop *loop, struct loop_io *io, uint32_t events) {
    struct epoll_event ev = {.events = events, .data.ptr = io};
    int rc = io->fd < 0 ? -EBADF : know_fd(loop, io->fd);
    if (rc < 0)
        return rc;
    if (loop->owners[io->fd]) { /* its descriptor was closed: the number is ours now */
        loop->owners[io->fd]->events = 0;
        loop->owners[io->fd] = NULL;
    }
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, io->fd, &ev) < 0)
        return -errno;
    loop->owners[io->fd] = io;
    io->at = io->fd;
    io->events = events;
    return 0;
}

int loop_io_set(struct loop *loop, struct loop_io *io, uint32_t events) {
    struct epoll_event ev = {.events = events, .data.ptr = io};
    if (events == 0 || (io->events && io->at != io->fd))
        take_out(loop, io);
    if (events == io->events)
        return 0;
    if (io->events && epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, io->fd, &ev) == 0) {
        io->events = events;
        return 0;
    }
    take_out(loop, io); /* if it was in, it was dropped: its number may stand for a new one */
    return put_in(loop, io, events);
}

/* ---- timers: a pairing heap (Fredman and others, 1986) ---- */

static struct loop_timer *meld(struct loop_timer *a, struct loop_timer *b) {
    if (!a || !b)
        return a ? a : b;
    if (b->due_ms < a->due_ms) {
        struct loop_timer *first = b;
        b = a;
        a = first;
    }
    b->next = a->child;
    if (b->next)
        b->next->at = &b->next;
    b->at = &a->child;
    a->child = b;
    return a;
}

/* One heap of a list of them: pairs from left to right, then all from right to left. */
static struct loop_timer *meld_all(struct loop_timer *list) {
    struct loop_timer *pairs = NULL, *all = NULL;
    while (list) {
        struct loop_timer *a = list, *b = a->next;
        list = b ? b->next : NULL;
        a = meld(a, b);
        a->next = pairs;
        pairs = a;
    }
    while (pairs) {
        struct loop_timer *a = pairs;
        pairs = a->next;
        all = meld(all, a);
    }
    return all;
}

static void set_first(struct loop *loop, struct loop_timer *first) {
    loop->timers = first;
    if (first) {
        first->next = NULL;
        first->at = &loop->timers;
    }
}

void loop_timer_set(struct loop *loop, struct loop_timer *timer, int64_t due_ms) {
    assert(timer->fire);
    loop_timer_cancel(loop, timer);
    timer->due_ms = due_ms;
    timer->child = NULL;
    set_first(loop, meld(loop->timers, timer));
}

bool loop_timer_armed(const struct loop_timer *timer) {
    return timer->at != NULL;
}

void loop_timer_cancel(struct loop *loop, struct loop_timer *timer) {
    if (!timer->at)
        return;
    struct loop_timer *below = meld_all(timer->child);
    if (loop->timers == timer) {
        set_first(loop, below);
    } else {
        *timer->at = timer->next;
        if (timer->next)
            timer->next->at = timer->at;
        set_first(loop, meld(loop->timers, below));
    }
    timer->at = NULL;
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
    if (!loop->timers)
        return -1;
    int64_t wait = loop->timers->due_ms - clock_mono_ms();
    return wait < 0 ? 0 : wait > 60000 ? 60000 : (int)wait;
}

static void run_timers(struct loop *loop) {
    while (loop->timers && loop->timers->due_ms <= loop->now_ms) {
        struct loop_timer *timer = loop->timers;
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
