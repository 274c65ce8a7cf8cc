/*
 * shorten: makes a process meet honest short counts. On the entry of a system call the length that
 * it asks for is lowered, so that the kernel transfers less and says so: both sides see the same.
 * (strace(1) can only make up a result for a call that it skips, which would be a lie about the
 * data.)
 *
 *   shorten PID CALL HOW WHICH OUTPUT
 *
 * CALL  copy_file_range, pread64, pwrite64, sendto or recvfrom
 * HOW   to how much: a number of bytes, half, less1
 * WHICH 0: each such call, N: the N-th of those that ask for more than that
 *
 * OUTPUT gets a line `attached`, then one for each call that was shortened: what was asked for,
 * what was let through, what the kernel answered. Ends with the process, or on SIGTERM; then the
 * process goes on as it was.
 */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef __x86_64__
#error "the registers of this machine are not known here"
#endif

enum { TO_HALF = -1, TO_ONE_LESS = -2 };

typedef unsigned long long reg;

struct shorten {
    pid_t pid;
    long call;
    long how; /* bytes, or one of the above */
    unsigned long which, seen;
    FILE *out;
    bool inside; /* between the entry and the exit of a call that is shortened */
    reg asked, let;
};

static const struct {
    const char *name;
    long number;
} calls[] = {{"copy_file_range", SYS_copy_file_range},
             {"pread64", SYS_pread64},
             {"pwrite64", SYS_pwrite64},
             {"sendto", SYS_sendto},
             {"recvfrom", SYS_recvfrom}};

/* Where a call has its length. */
static reg *length_of(struct user_regs_struct *regs) {
    return (long)regs->orig_rax == SYS_copy_file_range ? &regs->r8 : &regs->rdx;
}

static reg shorter(long how, reg n) {
    return how == TO_HALF ? n / 2 : how == TO_ONE_LESS ? n - 1 : (reg)how;
}

static void at_entry(struct shorten *s, struct user_regs_struct *regs) {
    reg *length = length_of(regs);
    reg let = shorter(s->how, *length);
    if ((long)regs->orig_rax != s->call || let == 0 || let >= *length)
        return;
    s->seen++;
    if (s->which != 0 && s->which != s->seen)
        return;
    s->asked = *length;
    s->let = *length = let;
    s->inside = ptrace(PTRACE_SETREGS, s->pid, 0, regs) == 0;
}

/* A program may rely on every register but the result's: the length is put back. */
static void at_exit(struct shorten *s, struct user_regs_struct *regs) {
    if (!s->inside)
        return;
    s->inside = false;
    *length_of(regs) = s->asked;
    ptrace(PTRACE_SETREGS, s->pid, 0, regs);
    fprintf(s->out, "%llu %llu %lld\n", s->asked, s->let, (long long)regs->rax);
}

static void at_call(struct shorten *s) {
    struct __ptrace_syscall_info info;
    struct user_regs_struct regs;
    if (ptrace(PTRACE_GET_SYSCALL_INFO, s->pid, sizeof info, &info) < 0 ||
        ptrace(PTRACE_GETREGS, s->pid, 0, &regs) < 0)
        return;
    if (info.op == PTRACE_SYSCALL_INFO_ENTRY)
        at_entry(s, &regs);
    else if (info.op == PTRACE_SYSCALL_INFO_EXIT)
        at_exit(s, &regs);
}

/* One stop of the process; how it goes on. */
static void at_stop(struct shorten *s, int status) {
    int signo = WSTOPSIG(status);
    bool stays = status >> 16 == PTRACE_EVENT_STOP && signo != SIGTRAP; /* a job control stop */
    long deliver = 0;
    if (signo == (SIGTRAP | 0x80))
        at_call(s);
    else if (status >> 16 == 0)
        deliver = signo;
    ptrace(stays ? PTRACE_LISTEN : PTRACE_SYSCALL, s->pid, 0, deliver);
}

static int usage(void) {
    fputs("usage: shorten PID CALL BYTES|half|less1 WHICH OUTPUT\n", stderr);
    return 64;
}

static int read_arguments(struct shorten *s, char **argv) {
    size_t i = 0, n = sizeof calls / sizeof *calls;
    while (i < n && strcmp(calls[i].name, argv[2]) != 0)
        i++;
    s->pid = (pid_t)atol(argv[1]);
    s->which = strtoul(argv[4], NULL, 10);
    s->how = strcmp(argv[3], "half") == 0    ? TO_HALF
             : strcmp(argv[3], "less1") == 0 ? TO_ONE_LESS
                                             : atol(argv[3]);
    if (i == n || s->pid <= 0 || s->how == 0 || s->how < TO_ONE_LESS)
        return -EINVAL;
    s->call = calls[i].number;
    s->out = fopen(argv[5], "w");
    if (!s->out)
        return -errno;
    setvbuf(s->out, NULL, _IOLBF, 0);
    return 0;
}

/* SIGTERM ends us as it is: the kernel lets the process go on then, untraced. */
int main(int argc, char **argv) {
    struct shorten s = {.call = -1};
    sigset_t term;
    int status;
    if (argc != 6 || read_arguments(&s, argv) < 0)
        return usage();
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    if (ptrace(PTRACE_SEIZE, s.pid, 0, PTRACE_O_TRACESYSGOOD) < 0 ||
        ptrace(PTRACE_INTERRUPT, s.pid, 0, 0) < 0) {
        perror("shorten: attach");
        return 1;
    }
    for (bool told = false; waitpid(s.pid, &status, __WALL) == s.pid && WIFSTOPPED(status);) {
        sigprocmask(SIG_BLOCK, &term, NULL);
        at_stop(&s, status);
        if (!told)
            fputs("attached\n", s.out);
        told = true;
        if (!s.inside) /* never with a register that is not the program's own */
            sigprocmask(SIG_UNBLOCK, &term, NULL);
    }
    return fclose(s.out) == 0 ? 0 : 1;
}
