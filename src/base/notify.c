#include "base/notify.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/str.h"

enum { WAIT_US = 100000 }; /* for a manager whose queue is full: it may be ill itself */

bool notify_send(const char *state) {
    const struct timeval wait = {.tv_usec = WAIT_US};
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof un.sun_path)
        return true;
    size_t len = strlen(path);
    memcpy(un.sun_path, path, len);
    if (path[0] == '@')
        un.sun_path[0] = '\0'; /* abstract */
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return true;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
    ssize_t n = sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&un,
                       (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len));
    bool in_vain = n < 0 && errno == EAGAIN;
    close(fd);
    return !in_vain;
}

void notify_reloading(void) {
    char state[64];
    snprintf(state, sizeof state, "RELOADING=1\nMONOTONIC_USEC=%" PRId64, clock_mono_us());
    notify_send(state);
}

void notify_stopping(int64_t within_ms) {
    char state[64];
    snprintf(state, sizeof state, "STOPPING=1\nEXTEND_TIMEOUT_USEC=%" PRId64, within_ms * 1000);
    notify_send(state);
}

int64_t notify_watchdog_ms(void) {
    const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    uint64_t n, whose;
    if (!usec || str_u64(str_view(usec), INT64_MAX, &n) < 0)
        return 0;
    if (pid && (str_u64(str_view(pid), INT64_MAX, &whose) < 0 || whose != (uint64_t)getpid()))
        return 0;
    return n < 2000 ? 1 : (int64_t)(n / 2000);
}
