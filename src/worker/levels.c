#include "worker/levels.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/clock.h"
#include "fs/path.h"

enum { AGE_MS = 3000 }; /* so old may the table be that moves go by */

void levels_init(struct levels *l, struct child *w) {
    *l = (struct levels){.w = w};
    ladder_init(&l->ladder);
    for (size_t i = 0; i < LADDER_MAX_LEVELS; i++)
        l->at[i].dir = -1;
}

void levels_close(struct levels *l) {
    for (size_t i = 0; i < LADDER_MAX_LEVELS; i++)
        path_close(&l->at[i].dir);
}

void levels_release(struct levels *l) {
    levels_close(l);
    ladder_release(&l->ladder);
}

static void know(void *ctx, struct str_view name, struct str_view id) {
    struct levels *l = ctx;
    const struct level *found = ladder_find(&l->ladder, name);
    if (found)
        (void)str_copy(l->at[found - l->ladder.levels].id, LEVEL_ID_BYTES, id);
}

int levels_read(struct levels *l, bool fresh) {
    struct child *w = l->w;
    if (!fresh && l->read_ms && clock_mono_ms() - l->read_ms < AGE_MS)
        return 0;
    levels_close(l);
    int rc = w->db ? child_db_rc(w, catalog_levels(w->db, &l->ladder)) : -ENOTCONN;
    if (rc < 0)
        return rc;
    l->read_ms = 0; /* until the ids are here too */
    for (size_t i = 0; i < LADDER_MAX_LEVELS; i++)
        l->at[i].id[0] = '\0';
    rc = w->redis ? child_redis_rc(w, queue_level_ids(w->redis, know, l)) : -ENOTCONN;
    if (rc == 0)
        l->read_ms = clock_mono_ms();
    return rc;
}

/* Whether the directory is the level's; a marker that is seen for the first time is remembered. */
static bool is_right(struct levels *l, size_t i, int dir) {
    struct child *w = l->w;
    const char *name = l->ladder.levels[i].name;
    char id[LEVEL_ID_BYTES];
    l->state = level_check(dir, name, l->at[i].id, id);
    if (l->state == LEVEL_RIGHT && !l->at[i].id[0]) {
        memcpy(l->at[i].id, id, sizeof id);
        if (w->redis)
            child_redis_rc(w, queue_level_know(w->redis, name, id, false));
    }
    if (l->state == LEVEL_UNMARKED && !w->cfg->require_markers && !l->at[i].warned) {
        log_event(LOG_WARN, level_check_text(LEVEL_UNMARKED), LOG_STR("worker_id", w->id),
                  LOG_STR("at", name));
        l->at[i].warned = true;
    }
    return l->state == LEVEL_RIGHT || (l->state == LEVEL_UNMARKED && !w->cfg->require_markers);
}

/* A descriptor of the level's directory, the caller's, or -errno. */
static int open_level(struct levels *l, size_t i) {
    const struct config *cfg = l->w->cfg;
    int fd = path_open_level(l->ladder.levels[i].path, (const char *const *)cfg->roots,
                             (size_t)cfg->n_roots);
    if (fd >= 0 && !is_right(l, i, fd)) {
        path_close(&fd);
        return -ESTALE;
    }
    return fd;
}

int levels_dir(struct levels *l, const char *name) {
    const struct level *found = ladder_find(&l->ladder, str_view(name));
    if (!found) {
        if (levels_read(l, true) < 0)
            return -EAGAIN;
        found = ladder_find(&l->ladder, str_view(name));
    }
    if (!found)
        return -ENOKEY;
    size_t i = (size_t)(found - l->ladder.levels);
    if (l->at[i].dir < 0) {
        int fd = open_level(l, i);
        if (fd == -ESTALE)
            l->read_ms = 0; /* what was remembered may be out of date */
        if (fd < 0)
            return fd;
        l->at[i].dir = fd;
    }
    return l->at[i].dir;
}

void levels_text(const struct levels *l, char *out, size_t cap, const char *name, int rc) {
    if (rc == -ESTALE)
        snprintf(out, cap, "the directory of the level %s %s", name, level_check_text(l->state));
    else if (rc == -ENOKEY)
        snprintf(out, cap, "the level %s does not exist", name);
    else if (rc == -EXDEV)
        snprintf(out, cap, "the path of the level %s lies under none of the roots", name);
    else
        snprintf(out, cap, "the directory of the level %s cannot be opened: %s", name,
                 log_errno_text(rc));
}

void levels_add_use(struct levels *l, struct buf *use) {
    for (size_t i = 0; i < l->ladder.len; i++) {
        struct statvfs vfs;
        int fd = open_level(l, i);
        if (fd >= 0 && fstatvfs(fd, &vfs) == 0)
            buf_addf(use, "%s\n%" PRIu64 " %" PRIu64 "\n", l->ladder.levels[i].name,
                     (uint64_t)(vfs.f_blocks - vfs.f_bfree) * vfs.f_frsize,
                     (uint64_t)vfs.f_bavail * vfs.f_frsize);
        path_close(&fd);
    }
}
