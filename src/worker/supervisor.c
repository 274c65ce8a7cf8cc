#include "worker/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/notify.h"

enum {
    BACKOFF_FIRST_MS = 100,
    BACKOFF_MAX_MS = 5000,
    HEALTHY_MS = 10000, /* a child that lived so long may die and be back at once */
    KILL_AFTER_MS =
        2000, /* past the drain time-out; then SIGKILL, which costs a lease but no data */
};

struct child {
    pid_t pid; /* 0: not running */
    size_t group, index;
    int64_t started_ms, start_at_ms, backoff_ms;
    bool ready;    /* it can work */
    bool replaced; /* asked to end so that a new one takes its place */
};

struct run {
    struct supervisor *s;
    struct child children[SUPERVISOR_CHILDREN_MAX];
    size_t n;
    int ready_pipe[2]; /* children that can work write their pid */
    int signal_fd;
    sigset_t set;
    bool announced[SUPERVISOR_GROUPS_MAX]; /* the ready line is written once */
    bool told;          /* the manager was, that all can work, since the start or the reload */
    int64_t stop_at_ms; /* 0: not stopping */
    int64_t kill_at_ms, watchdog_at_ms;
};

/* In the child: never outlive the supervisor, whatever ends it. */
static void become_child(struct run *r, pid_t parent) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(0);
    close(r->signal_fd);
    close(r->ready_pipe[0]);
    sigprocmask(SIG_UNBLOCK, &r->set, NULL);
}

static void start_child(struct run *r, struct child *c) {
    struct supervisor_group *g = &r->s->groups[c->group];
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid == 0) {
        become_child(r, parent);
        exit(g->run(g->ctx, c->index, r->ready_pipe[1]));
    }
    if (pid < 0) {
        log_event(LOG_ERROR, "cannot fork", LOG_STR("role", g->role), LOG_ERRNO(errno));
        c->start_at_ms = clock_mono_ms() + c->backoff_ms;
        return;
    }
    c->pid = pid;
    c->ready = c->replaced = false;
    c->started_ms = clock_mono_ms();
    log_event(LOG_DEBUG, "started", LOG_STR("role", g->role), LOG_U64("pid", (uint64_t)pid));
}

static void child_died(struct run *r, struct child *c, int status) {
    int64_t now = clock_mono_ms();
    const char *role = r->s->groups[c->group].role;
    uint64_t pid = (uint64_t)c->pid;
    c->pid = 0;
    c->ready = false;
    if (r->stop_at_ms)
        return;
    if (c->replaced || now - c->started_ms >= HEALTHY_MS)
        c->backoff_ms = BACKOFF_FIRST_MS;
    c->start_at_ms = c->replaced ? now : now + c->backoff_ms;
    c->backoff_ms = c->backoff_ms * 2 > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : c->backoff_ms * 2;
    if (c->replaced)
        return;
    char how[64];
    if (WIFSIGNALED(status))
        snprintf(how, sizeof how, "killed by signal %d", WTERMSIG(status));
    else
        snprintf(how, sizeof how, "exited with status %d", WEXITSTATUS(status));
    log_event(LOG_WARN, "a child died and is started again", LOG_STR("role", role),
              LOG_U64("pid", pid), LOG_STR("error", how));
}

static void reap(struct run *r) {
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        for (size_t i = 0; i < r->n; i++)
            if (r->children[i].pid == pid)
                child_died(r, &r->children[i], status);
}

static void signal_all(struct run *r, int signo, bool replace) {
    for (size_t i = 0; i < r->n; i++) {
        if (r->children[i].pid <= 0)
            continue;
        r->children[i].replaced = replace;
        kill(r->children[i].pid, signo);
    }
}

/* The manager hears READY=1 when the new children can work, or at once when the old ones stay. */
static void reload(struct run *r) {
    notify_reloading();
    if (r->s->reload(r->s->ctx) < 0) {
        notify_send("READY=1\nSTATUS=the new settings were refused, the old ones stay");
        return;
    }
    log_event(LOG_INFO, "settings read again, replacing the children");
    r->told = false;
    signal_all(r, SIGTERM, true);
}

static void on_signal(struct run *r, int signo) {
    if (signo == SIGCHLD) {
        reap(r);
    } else if (signo == SIGHUP && !r->stop_at_ms) {
        reload(r);
    } else if (signo != SIGHUP && !r->stop_at_ms) {
        int64_t within_ms = *r->s->drain_timeout_ms + KILL_AFTER_MS;
        notify_stopping(within_ms + KILL_AFTER_MS);
        log_event(LOG_INFO, "stopping");
        r->stop_at_ms = clock_mono_ms();
        r->kill_at_ms = r->stop_at_ms + within_ms;
        signal_all(r, SIGTERM, false);
    }
}

static void read_signals(struct run *r) {
    struct signalfd_siginfo info;
    while (read(r->signal_fd, &info, sizeof info) == sizeof info)
        on_signal(r, (int)info.ssi_signo);
}

void supervisor_tell_ready(int ready_fd) {
    pid_t pid = getpid();
    (void)!write(ready_fd, &pid, sizeof pid);
}

/* Whether all children of the group can work; those that are to be replaced do not count. */
static bool is_complete(const struct run *r, size_t group) {
    for (size_t i = 0; i < r->n; i++)
        if (r->children[i].group == group && (!r->children[i].ready || r->children[i].replaced))
            return false;
    return true;
}

static void announce(struct run *r) {
    size_t complete = 0;
    for (size_t i = 0; i < r->s->n_groups; i++) {
        struct supervisor_group *g = &r->s->groups[i];
        if (!is_complete(r, i))
            continue;
        complete++;
        if (!r->announced[i])
            g->ready(g->ctx);
        r->announced[i] = true;
    }
    if (complete < r->s->n_groups || r->told)
        return;
    notify_send("READY=1\nSTATUS=");
    r->told = true;
}

static void read_ready(struct run *r) {
    pid_t pid;
    while (read(r->ready_pipe[0], &pid, sizeof pid) == sizeof pid) {
        for (size_t i = 0; i < r->n; i++)
            if (r->children[i].pid == pid)
                r->children[i].ready = true;
        announce(r);
    }
}

static bool any_running(const struct run *r) {
    for (size_t i = 0; i < r->n; i++)
        if (r->children[i].pid > 0)
            return true;
    return false;
}

static void earlier(int64_t *wait_ms, int64_t ms) {
    if (ms < 0)
        ms = 0;
    if (*wait_ms < 0 || ms < *wait_ms)
        *wait_ms = ms;
}

/* Starts what is due, pets the watchdog; returns how long nothing more is due, -1 for ever. */
static int64_t do_due(struct run *r) {
    int64_t now = clock_mono_ms(), wait_ms = -1, watchdog_ms = notify_watchdog_ms();
    if (watchdog_ms) {
        if (now >= r->watchdog_at_ms) {
            notify_send("WATCHDOG=1");
            r->watchdog_at_ms = now + watchdog_ms;
        }
        earlier(&wait_ms, r->watchdog_at_ms - now);
    }
    if (r->stop_at_ms) {
        if (now >= r->kill_at_ms) {
            log_event(LOG_WARN, "the drain time-out is over, killing what is left");
            signal_all(r, SIGKILL, false);
            r->kill_at_ms = now + KILL_AFTER_MS;
        }
        earlier(&wait_ms, r->kill_at_ms - now);
        return wait_ms;
    }
    for (size_t i = 0; i < r->n; i++) {
        struct child *c = &r->children[i];
        if (c->pid == 0 && now >= c->start_at_ms)
            start_child(r, c);
        if (c->pid == 0)
            earlier(&wait_ms, c->start_at_ms - now);
    }
    return wait_ms;
}

static int prepare(struct run *r) {
    for (size_t g = 0; g < r->s->n_groups; g++)
        for (size_t i = 0; i < r->s->groups[g].count && r->n < SUPERVISOR_CHILDREN_MAX; i++)
            r->children[r->n++] =
                (struct child){.group = g, .index = i, .backoff_ms = BACKOFF_FIRST_MS};
    sigemptyset(&r->set);
    sigaddset(&r->set, SIGTERM);
    sigaddset(&r->set, SIGINT);
    sigaddset(&r->set, SIGHUP);
    sigaddset(&r->set, SIGCHLD);
    if (sigprocmask(SIG_BLOCK, &r->set, NULL) < 0 ||
        (r->signal_fd = signalfd(-1, &r->set, SFD_CLOEXEC | SFD_NONBLOCK)) < 0 ||
        pipe2(r->ready_pipe, O_CLOEXEC | O_NONBLOCK) < 0)
        return -errno;
    return 0;
}

int supervisor_run(struct supervisor *s) {
    struct run *r = calloc(1, sizeof *r);
    if (!r)
        return EX_OSERR;
    r->s = s;
    int rc = prepare(r);
    if (rc < 0)
        log_event(LOG_ERROR, "cannot supervise", LOG_ERRNO(rc));
    while (rc == 0 && (!r->stop_at_ms || any_running(r))) {
        int64_t wait_ms = do_due(r);
        struct pollfd p[2] = {{.fd = r->signal_fd, .events = POLLIN},
                              {.fd = r->ready_pipe[0], .events = POLLIN}};
        if (poll(p, 2, (int)wait_ms) < 0 && errno != EINTR)
            rc = -errno;
        read_ready(r);
        read_signals(r);
    }
    free(r);
    return rc < 0 ? EX_OSERR : 0;
}
