#include "net/listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/str.h"

enum { BACKLOG = 4096 }; /* the kernel caps it at net.core.somaxconn */

static int bind_and_listen(int family, const struct sockaddr *addr, socklen_t len, bool shared) {
    int one = 1;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (family != AF_UNIX)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (shared && family != AF_UNIX)
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    if (bind(fd, addr, len) < 0 || listen(fd, BACKLOG) < 0) {
        int rc = -errno;
        close(fd);
        return rc;
    }
    return fd;
}

/* True when the file is a socket that nobody listens on. */
static bool stale(const struct sockaddr_un *un) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool refused = fd >= 0 && connect(fd, (const struct sockaddr *)un, sizeof *un) < 0 &&
                   errno == ECONNREFUSED;
    if (fd >= 0)
        close(fd);
    return refused;
}

static int open_unix(const char *path, char name[LISTEN_NAME_BYTES]) {
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    if (path[0] != '/' || strlen(path) >= sizeof un.sun_path)
        return -EINVAL;
    memcpy(un.sun_path, path, strlen(path) + 1);
    int fd = bind_and_listen(AF_UNIX, (struct sockaddr *)&un, sizeof un, false);
    if (fd == -EADDRINUSE && stale(&un)) {
        unlink(path);
        fd = bind_and_listen(AF_UNIX, (struct sockaddr *)&un, sizeof un, false);
    }
    snprintf(name, LISTEN_NAME_BYTES, "unix:%s", path);
    return fd;
}

static int bound_name(int fd, char name[LISTEN_NAME_BYTES]) {
    struct sockaddr_storage addr;
    socklen_t len = sizeof addr;
    char host[NI_MAXHOST], port[NI_MAXSERV];
    if (getsockname(fd, (struct sockaddr *)&addr, &len) < 0 ||
        getnameinfo((struct sockaddr *)&addr, len, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return -EINVAL;
    snprintf(name, LISTEN_NAME_BYTES, strchr(host, ':') ? "[%.80s]:%s" : "%.80s:%s", host, port);
    return 0;
}

int listen_open(const char *where, bool shared, char name[LISTEN_NAME_BYTES]) {
    char host[256];
    uint64_t port;
    if (strncmp(where, "unix:", 5) == 0)
        return open_unix(where + 5, name);
    const char *colon = strrchr(where, ':');
    if (!colon || colon == where || str_u64(str_view(colon + 1), 65535, &port) < 0)
        return -EINVAL;
    struct str_view h = {where, (size_t)(colon - where)};
    bool brackets = h.ptr[0] == '[' && h.ptr[h.len - 1] == ']';
    if (brackets)
        h = (struct str_view){h.ptr + 1, h.len - 2};
    else if (memchr(h.ptr, ':', h.len))
        return -EINVAL;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list;
    if (str_copy(host, sizeof host, h) < 0 || getaddrinfo(host, colon + 1, &hints, &list) != 0)
        return -EINVAL;
    int fd = bind_and_listen(list->ai_family, list->ai_addr, list->ai_addrlen, shared);
    freeaddrinfo(list);
    if (fd >= 0 && bound_name(fd, name) < 0) {
        close(fd);
        return -EINVAL;
    }
    return fd;
}

void listen_remove(const char *where) {
    if (strncmp(where, "unix:", 5) == 0)
        unlink(where + 5);
}
