#include "fs/level.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/name.h"
#include "fs/file.h"
#include "fs/path.h"

#define MARKER     NAME_PRIVATE_PREFIX "-level"
#define MARKER_NEW NAME_PRIVATE_PREFIX "-level.new"

enum { MARKER_BYTES = LEVEL_NAME_BYTES + 64 };

const char *level_check_text(enum level_check check) {
    static const char *const texts[] = {
        "is marked as this level",
        "has no marker .tierd-level (run tierd init-level, so that a missing mount is noticed)",
        "lacks its marker .tierd-level: is its file system mounted?",
        "has the marker of another level: is the right file system mounted?",
        "has a marker .tierd-level that cannot be read",
    };
    return texts[check];
}

/* Takes the value of `key=value\n` off the front of *text. */
static const char *take_line(char **text, const char *key) {
    size_t n = strlen(key);
    char *value = *text + n + 1;
    if (strncmp(*text, key, n) != 0 || (*text)[n] != '=')
        return NULL;
    char *end = strchr(value, '\n');
    if (!end)
        return NULL;
    *end = '\0';
    *text = end + 1;
    return value;
}

enum level_check level_check(int dir, const char *name, const char *known_id,
                             char id[LEVEL_ID_BYTES]) {
    char text[MARKER_BYTES + 1];
    struct stat st;
    int fd;
    enum move_rc rc = file_open_regular(dir, MARKER, &fd, &st);
    if (rc == MOVE_MISSING)
        return known_id[0] ? LEVEL_LOST : LEVEL_UNMARKED;
    if (rc != MOVE_OK)
        return LEVEL_UNREADABLE;
    ssize_t n = file_read_full(fd, text, MARKER_BYTES, 0);
    close(fd);
    if (n < 0)
        return LEVEL_UNREADABLE;
    text[n] = '\0';
    char *rest = text;
    const char *found_id = take_line(&rest, "id");
    const char *found_name = found_id ? take_line(&rest, "level") : NULL;
    if (!found_name || strlen(found_id) != LEVEL_ID_BYTES - 1)
        return LEVEL_UNREADABLE;
    if (strcmp(found_name, name) != 0 || (known_id[0] && strcmp(found_id, known_id) != 0))
        return LEVEL_OTHER;
    memcpy(id, found_id, LEVEL_ID_BYTES);
    return LEVEL_RIGHT;
}

int level_open(const char *name, const char *path, const char *known_id,
               const struct level_terms *terms, struct level_dir *out) {
    int fd = path_open_level(path, terms->roots, terms->n_roots);
    *out = (struct level_dir){.fd = -1};
    if (fd < 0)
        return fd;
    if (sys_identity(fd, &out->identity) < 0) {
        int error = errno;
        close(fd);
        return -error;
    }
    out->mark = level_check(fd, name, known_id, out->id);
    bool right = out->mark == LEVEL_RIGHT || (out->mark == LEVEL_UNMARKED && !terms->need_markers);
    if (!right) {
        close(fd);
        return -ESTALE;
    }
    out->fd = fd;
    return 0;
}

static int write_marker(int dir, const char *text, size_t len) {
    int fd = openat(dir, MARKER_NEW, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0)
        return -errno;
    ssize_t n = write(fd, text, len);
    int rc = n < 0 ? -errno : (size_t)n != len ? -EIO : fsync(fd) < 0 ? -errno : 0;
    if (close(fd) < 0 && rc == 0)
        rc = -errno;
    if (rc == 0 && file_publish_temp(dir, MARKER_NEW, MARKER) < 0)
        rc = -errno;
    if (rc < 0)
        unlinkat(dir, MARKER_NEW, 0);
    return rc < 0 ? rc : fsync(dir) < 0 ? -errno : 0;
}

static bool is_something(const char *name) {
    bool ours = strncmp(name, NAME_PRIVATE_PREFIX, strlen(NAME_PRIVATE_PREFIX)) == 0;
    return strcmp(name, MARKER) == 0 ||
           (!ours && strcmp(name, ".") != 0 && strcmp(name, "..") != 0);
}

bool level_is_bare(int dir) {
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;
    if (!d) {
        path_close(&fd);
        return false;
    }
    do {
        errno = 0;
        e = readdir(d);
    } while (e && !is_something(e->d_name));
    bool bare = !e && errno == 0;
    closedir(d);
    return bare;
}

int level_mark(int dir, const char *name, char id[LEVEL_ID_BYTES]) {
    unsigned char random[(LEVEL_ID_BYTES - 1) / 2];
    char text[MARKER_BYTES], fresh[LEVEL_ID_BYTES];
    if (strchr(name, '\n') || strlen(name) >= LEVEL_NAME_BYTES)
        return -EINVAL;
    if (getrandom(random, sizeof random, 0) != sizeof random)
        return -errno;
    for (size_t i = 0; i < sizeof random; i++)
        snprintf(fresh + 2 * i, 3, "%02x", random[i]);
    int len = snprintf(text, sizeof text, "id=%s\nlevel=%s\n", fresh, name);
    int rc = write_marker(dir, text, (size_t)len);
    if (rc == 0)
        memcpy(id, fresh, LEVEL_ID_BYTES);
    return rc;
}
