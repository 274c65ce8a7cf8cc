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
        2000,          /* past the drain time-out; then SIGKILL, which costs a lease but no data */
    CHECK_MS = 1000,   /* between two looks whether the children turn */
    PAUSED_MS = 5000,  /* longer between two of ours: all of us were stopped, not only they */
    HANG_MS = 30000,   /* a child says that it turns every 10 s, and no call of it takes longer */
    SLOW_MS = 600000,  /* but those of a file system that answers: much is written in one */
    GONE_MS = 1000,    /* so soon SIGKILL ends who is not stuck in the kernel */
    GIVEN_UP_MAX = 64, /* stuck processes: past it they are not replaced, the service is ill */
    STATE_BYTES = 512, /* of /proc/PID/stat: enough for its third field, proc(5) */
};

struct child {
    pid_t pid; /* 0: not running */
    size_t group, index;
    struct turn *turn; /* while it runs */
    int64_t started_ms, start_at_ms, backoff_ms;
    int64_t asked_ms;  /* when it was asked to end so that a new one takes its place; 0: not */
    int64_t killed_ms; /* when it was, for it did not turn, or did not end; 0: not */
    bool ready;        /* it can work */
    bool slow_told;    /* that it waits long for a level that answers */
};

/* A process that does not turn, and is not ours to wait for any more: another took its place. */
struct given_up {
    pid_t pid;
    size_t group;
    struct turn *turn;
};

struct run {
    struct supervisor *s;
    struct child children[SUPERVISOR_CHILDREN_MAX];
    size_t n;
    struct given_up given_up[GIVEN_UP_MAX];
    size_t n_given_up;
    int ready_pipe[2]; /* children that can work write their pid */
    int signal_fd;
    sigset_t set;
    bool announced[SUPERVISOR_GROUPS_MAX]; /* the ready line is written once */
    bool told;          /* the manager was, that all can work, since the start or the reload */
    int64_t stop_at_ms; /* 0: not stopping */
    int64_t kill_at_ms, watchdog_at_ms;
    int64_t checked_ms, awake_ms; /* the last look at the children; since when we run unbroken */
    bool ill, lacks; /* a child hangs, or cannot be made, and nothing can be done about it */
};

static const char *role_of(const struct run *r, const struct child *c) {
    return r->s->groups[c->group].role;
}

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
    struct turn *turn = turns_take(r->s->turns);
    pid_t parent = getpid();
    pid_t pid = turn ? fork() : -1;
    if (pid == 0) {
        become_child(r, parent);
        exit(g->run(g->ctx, c->index, r->ready_pipe[1], turn));
    }
    r->lacks = pid < 0;
    if (pid < 0) {
        log_event(LOG_ERROR, "cannot fork", LOG_STR("role", g->role),
                  LOG_ERRNO(turn ? errno : EAGAIN));
        if (turn)
            turns_drop(turn);
        c->start_at_ms = clock_mono_ms() + c->backoff_ms;
        return;
    }
    c->pid = pid;
    c->turn = turn;
    c->ready = c->slow_told = false;
    c->asked_ms = c->killed_ms = 0;
    c->started_ms = clock_mono_ms();
    log_event(LOG_DEBUG, "started", LOG_STR("role", g->role), LOG_U64("pid", (uint64_t)pid));
}

static void child_died(struct run *r, struct child *c, int status) {
    int64_t now = clock_mono_ms();
    const char *role = role_of(r, c);
    uint64_t pid = (uint64_t)c->pid;
    bool wanted = c->asked_ms || c->killed_ms;
    c->pid = 0;
    c->ready = false;
    turns_drop(c->turn);
    if (r->stop_at_ms)
        return;
    if (wanted || now - c->started_ms >= HEALTHY_MS)
        c->backoff_ms = BACKOFF_FIRST_MS;
    c->start_at_ms = wanted ? now : now + c->backoff_ms;
    c->backoff_ms = c->backoff_ms * 2 > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : c->backoff_ms * 2;
    if (wanted)
        return;
    char how[64];
    if (WIFSIGNALED(status))
        snprintf(how, sizeof how, "killed by signal %d", WTERMSIG(status));
    else
        snprintf(how, sizeof how, "exited with status %d", WEXITSTATUS(status));
    log_event(LOG_WARN, "a child died and is started again", LOG_STR("role", role),
              LOG_U64("pid", pid), LOG_STR("error", how));
}

/* It came back after all, and ended. */
static void given_up_died(struct run *r, size_t i) {
    struct given_up *g = &r->given_up[i];
    log_event(LOG_INFO, "a child that was given up has ended",
              LOG_STR("role", r->s->groups[g->group].role), LOG_U64("pid", (uint64_t)g->pid));
    turns_drop(g->turn);
    *g = r->given_up[--r->n_given_up];
}

static void reap(struct run *r) {
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        for (size_t i = 0; i < r->n; i++)
            if (r->children[i].pid == pid)
                child_died(r, &r->children[i], status);
        for (size_t i = r->n_given_up; i-- > 0;)
            if (r->given_up[i].pid == pid)
                given_up_died(r, i);
    }
}

static void signal_all(struct run *r, int signo) {
    for (size_t i = 0; i < r->n; i++)
        if (r->children[i].pid > 0)
            kill(r->children[i].pid, signo);
}

/* Of no use any more, and too many of them would make the service ill. */
static void kill_given_up(const struct run *r) {
    for (size_t i = 0; i < r->n_given_up; i++)
        kill(r->given_up[i].pid, SIGKILL);
}

/* ---- children that do not turn ---- */

/* Whether a signal, or a tracer, has stopped the process: proc(5). */
static bool is_stopped(pid_t pid) {
    char path[32], text[STATE_BYTES];
    snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = '\0';
    const char *name_end = strrchr(text, ')');
    return name_end && (strncmp(name_end, ") T", 3) == 0 || strncmp(name_end, ") t", 3) == 0);
}

/* For how long it has not said that it turns. What it could not say while all of us were stopped
 * does not count. */
static int64_t silent_ms(const struct run *r, const struct child *c, int64_t now) {
    int64_t since = turn_last_ms(c->turn);
    since = since > c->started_ms ? since : c->started_ms;
    since = since > r->awake_ms ? since : r->awake_ms;
    return now - since;
}

/* How long it may be silent. */
static int64_t patience_ms(const struct run *r, const struct child *c) {
    if (!turn_is_in_level(c->turn))
        return HANG_MS;
    if (r->s->groups[c->group].looks || turn_is_in_hung(r->s->turns, c->turn))
        return TURNS_HUNG_MS;
    return is_stopped(c->pid) ? HANG_MS : SLOW_MS;
}

static void say_silent(const struct run *r, const struct child *c, int64_t ms, const char *then) {
    char in[TURNS_TEXT_BYTES], text[2 * TURNS_TEXT_BYTES];
    turn_text(r->s->turns, c->turn, in);
    snprintf(text, sizeof text, "child %ld of role %s has not turned for %lld s%s%s%s, %s",
             (long)c->pid, role_of(r, c), (long long)ms / 1000, in[0] ? ": it waits for " : "", in,
             turn_is_in_hung(r->s->turns, c->turn) ? ", whose file system does not answer" : "",
             then);
    log_event(LOG_WARN, text);
}

static void kill_child(const struct run *r, struct child *c, int64_t now) {
    turn_kill(r->s->turns, c->turn);
    kill(c->pid, SIGKILL);
    c->killed_ms = now;
}

/* Nobody waits for it any more; its place is free for another. False: there are too many such. */
static bool give_up(struct run *r, struct child *c, int64_t now) {
    if (r->n_given_up == GIVEN_UP_MAX)
        return false;
    turn_give_up(c->turn);
    r->given_up[r->n_given_up++] = (struct given_up){c->pid, c->group, c->turn};
    c->pid = 0;
    c->ready = false;
    c->start_at_ms = now;
    return true;
}

static void say_hung(const struct run *r, const struct child *c) {
    char in[TURNS_TEXT_BYTES], text[2 * TURNS_TEXT_BYTES];
    turn_text(r->s->turns, c->turn, in);
    snprintf(text, sizeof text,
             "the file system of the level %s does not answer: what needs it waits until it does",
             in);
    log_event(LOG_ERROR, text, LOG_STR("role", role_of(r, c)), LOG_U64("pid", (uint64_t)c->pid));
}

/* A looker that waits for a level is let alone: when it comes back, the level answers again. */
static void replace_silent(struct run *r, struct child *c, int64_t ms, int64_t now) {
    if (r->s->groups[c->group].looks && turn_is_in_hung(r->s->turns, c->turn) &&
        !is_stopped(c->pid)) {
        say_hung(r, c);
        r->ill = !give_up(r, c, now) || r->ill;
        return;
    }
    say_silent(r, c, ms, "it is killed and replaced");
    kill_child(r, c, now);
}

static void check_child(struct run *r, struct child *c, int64_t now) {
    int64_t ms = silent_ms(r, c, now);
    int64_t drain_ms = *r->s->drain_timeout_ms + KILL_AFTER_MS;
    if (c->killed_ms) {
        if (now - c->killed_ms < GONE_MS)
            return;
        if (give_up(r, c, now))
            log_event(LOG_ERROR,
                      "a child is stuck in the kernel and cannot be killed, another "
                      "takes its place",
                      LOG_STR("role", role_of(r, c)));
        else
            r->ill = true;
    } else if (c->asked_ms && now - c->asked_ms >= drain_ms) {
        say_silent(r, c, ms, "and did not end for the new settings: it is killed");
        kill_child(r, c, now);
    } else if (ms >= TURNS_HUNG_MS && ms >= patience_ms(r, c)) {
        replace_silent(r, c, ms, now);
    } else if (ms >= HANG_MS && !c->slow_told) {
        say_silent(r, c, ms, "it is waited for, for the level answers");
        c->slow_told = true;
    } else if (ms < HANG_MS) {
        c->slow_told = false;
    }
}

/* Looks whether all children turn; those that do not are replaced. */
static void check(struct run *r, int64_t now) {
    if (now - r->checked_ms > PAUSED_MS)
        r->awake_ms = now;
    r->checked_ms = now;
    r->ill = false;
    for (size_t i = 0; i < r->n; i++)
        if (r->children[i].pid > 0)
            check_child(r, &r->children[i], now);
}

/* The manager hears READY=1 when the new children can work, or at once when the old ones stay. */
static void reload(struct run *r) {
    notify_reloading();
    if (r->s->reload(r->s->ctx) < 0) {
        if (!notify_send("READY=1\nSTATUS=the new settings were refused, the old ones stay"))
            r->told = false;
        return;
    }
    log_event(LOG_INFO, "settings read again, replacing the children");
    turns_look_anew(r->s->turns); /* what hung may be another mount by now, */
    kill_given_up(r);             /* and nobody asks those who wait for it */
    r->told = false;
    for (size_t i = 0; i < r->n; i++)
        r->children[i].asked_ms = clock_mono_ms();
    signal_all(r, SIGTERM);
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
        signal_all(r, SIGTERM);
        kill_given_up(r);
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
        if (r->children[i].group == group && (!r->children[i].ready || r->children[i].asked_ms))
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
        if (!r->announced[i] && g->ready)
            g->ready(g->ctx);
        r->announced[i] = true;
    }
    if (complete == r->s->n_groups && !r->told)
        r->told = notify_send("READY=1\nSTATUS=");
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

static void earlier(int64_t *wait_ms, int64_t ms) {
    if (ms < 0)
        ms = 0;
    if (*wait_ms < 0 || ms < *wait_ms)
        *wait_ms = ms;
}

/* Fed while all is well, as far as we can see: what hangs is replaced. */
static void feed_watchdog(struct run *r, int64_t now, int64_t *wait_ms) {
    int64_t watchdog_ms = notify_watchdog_ms();
    if (!watchdog_ms)
        return;
    if (now >= r->watchdog_at_ms) {
        if (!r->ill && !r->lacks)
            notify_send("WATCHDOG=1");
        r->watchdog_at_ms = now + watchdog_ms;
    }
    earlier(wait_ms, r->watchdog_at_ms - now);
}

/* Kills who will not end by itself: a quarter of the drain time-out before its end who waits for a
 * level, at its end everybody. True: nobody is left, or only who cannot be killed. */
static bool is_stopped_all(struct run *r, int64_t now) {
    int64_t drain_ms = *r->s->drain_timeout_ms;
    bool late = now - r->stop_at_ms >= drain_ms / 4 * 3, over = now >= r->kill_at_ms, done = true;
    if (over) {
        log_event(LOG_WARN, "the drain time-out is over, killing what is left");
        r->kill_at_ms = now + KILL_AFTER_MS;
    }
    for (size_t i = 0; i < r->n; i++) {
        struct child *c = &r->children[i];
        int64_t ms = c->pid > 0 ? silent_ms(r, c, now) : 0;
        if (c->pid <= 0)
            continue;
        bool waits = turn_is_in_level(c->turn) && ms >= drain_ms / 4;
        if (!c->killed_ms && !over &&
            ((late && waits) || (ms >= TURNS_HUNG_MS && ms >= patience_ms(r, c))))
            say_silent(r, c, ms, "it is killed");
        else if (c->killed_ms || !over) {
            done = done && c->killed_ms && now - c->killed_ms >= GONE_MS;
            continue;
        }
        kill_child(r, c, now);
        done = false;
    }
    return done;
}

static void say_left(const struct run *r) {
    for (size_t i = 0; i < r->n; i++)
        if (r->children[i].pid > 0)
            log_event(LOG_ERROR, "a child is stuck in the kernel and is left behind",
                      LOG_STR("role", role_of(r, &r->children[i])),
                      LOG_U64("pid", (uint64_t)r->children[i].pid));
    for (size_t i = 0; i < r->n_given_up; i++)
        log_event(LOG_ERROR, "a child is stuck in the kernel and is left behind",
                  LOG_STR("role", r->s->groups[r->given_up[i].group].role),
                  LOG_U64("pid", (uint64_t)r->given_up[i].pid));
}

/* Starts what is due, looks after what runs, tells again what the manager did not take; how long
 * nothing more is due. */
static int64_t do_due(struct run *r) {
    int64_t now = clock_mono_ms(), wait_ms = CHECK_MS;
    if (now - r->checked_ms >= CHECK_MS)
        check(r, now);
    if (!r->told)
        announce(r);
    for (size_t i = 0; i < r->n; i++) {
        struct child *c = &r->children[i];
        if (c->pid == 0 && now >= c->start_at_ms)
            start_child(r, c);
        if (c->pid == 0)
            earlier(&wait_ms, c->start_at_ms - now);
    }
    return wait_ms;
}

/* False: all have ended, as we were told to. */
static bool turn(struct run *r, int64_t *wait_ms) {
    int64_t now = clock_mono_ms();
    *wait_ms = CHECK_MS;
    if (!r->stop_at_ms)
        *wait_ms = do_due(r);
    else if (is_stopped_all(r, now))
        return false;
    else
        earlier(wait_ms, r->kill_at_ms - now);
    feed_watchdog(r, now, wait_ms);
    return true;
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
    r->checked_ms = clock_mono_ms();
    int rc = prepare(r);
    if (rc < 0)
        log_event(LOG_ERROR, "cannot supervise", LOG_ERRNO(rc));
    int64_t wait_ms;
    while (rc == 0 && turn(r, &wait_ms)) {
        struct pollfd p[2] = {{.fd = r->signal_fd, .events = POLLIN},
                              {.fd = r->ready_pipe[0], .events = POLLIN}};
        if (poll(p, 2, (int)wait_ms) < 0 && errno != EINTR)
            rc = -errno;
        read_ready(r);
        read_signals(r);
    }
    reap(r);
    say_left(r);
    free(r);
    return rc < 0 ? EX_OSERR : 0;
}
