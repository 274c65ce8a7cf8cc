/*
 * clock: the clock of a server's host that is set while the server runs. To be preloaded
 * (LD_PRELOAD, ld.so(8)) into a program that is linked dynamically: what it is told of the time of
 * day is off by as many seconds as the file CLOCK_OFFSET_FILE says, an int64_t in the byte order of
 * the machine, at each moment anew. Clocks that nobody can set (CLOCK_MONOTONIC) go on as they are.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset_s;

__attribute__((constructor)) static void map_offset(void) {
    const char *path = getenv("CLOCK_OFFSET_FILE");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *at = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *offset_s, PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        abort(); /* a test must not believe that it sets the clock */
    offset_s = at;
    close(fd);
}

/* Others' constructors may ask for the time before ours ran. */
static time_t offset(void) {
    return offset_s ? (time_t)*offset_s : 0;
}

int clock_gettime(clockid_t id, struct timespec *ts) {
    int rc = (int)syscall(SYS_clock_gettime, id, ts);
    if (rc == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        ts->tv_sec += offset();
    return rc;
}

int gettimeofday(struct timeval *tv, void *zone) {
    struct timespec ts;
    (void)zone;
    int rc = clock_gettime(CLOCK_REALTIME, &ts);
    *tv = (struct timeval){.tv_sec = ts.tv_sec, .tv_usec = ts.tv_nsec / 1000};
    return rc;
}

time_t time(time_t *out) {
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    if (out)
        *out = ts.tv_sec;
    return ts.tv_sec;
}
