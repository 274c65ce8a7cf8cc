#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/log.h"
#include "fs/level.h"
#include "fs/overlaps.h"
#include "fs/path.h"
#include "ops/ops.h"

/* Opens the directory of the level; complains and returns an exit status in *status otherwise. */
static int open_level(const struct ops *o, const struct level *l, int *status) {
    int fd =
        o->hangs[l - o->ladder.levels]
            ? -ETIMEDOUT
            : path_open_level(l->path, (const char *const *)o->cfg->roots, (size_t)o->cfg->n_roots);
    if (fd >= 0)
        return fd;
    *status = fd == -EXDEV || fd == -EINVAL ? EX_CONFIG : 1;
    if (fd == -EXDEV)
        log_refusal("the path %s of the level %s lies under none of the roots", l->path, l->name);
    else
        log_refusal("the directory %s of the level %s cannot be opened: %s", l->path, l->name,
                    fd == -ETIMEDOUT ? OPS_HANGS_TEXT : log_errno_text(fd));
    return -1;
}

static int mark(struct ops *o, const struct level *l) {
    char id[LEVEL_ID_BYTES];
    int status = 0;
    int dir = open_level(o, l, &status);
    if (dir < 0)
        return status;
    int rc = level_mark(dir, l->name, id);
    bool stood = rc == -EEXIST;
    enum level_check found = LEVEL_RIGHT;
    if (stood && (found = level_check(dir, l->name, "", id)) == LEVEL_RIGHT)
        rc = 0; /* marked before, perhaps from another host: only make it known */
    close(dir);
    if (found != LEVEL_RIGHT) {
        log_refusal("the directory %s of the level %s %s", l->path, l->name,
                    level_check_text(found));
        return 1;
    }
    if (rc < 0) {
        log_refusal("the directory %s of the level %s cannot be marked: %s", l->path, l->name,
                    log_errno_text(rc));
        return 1;
    }
    rc = queue_level_know(o->redis, l->name, id, true);
    if (rc < 0) {
        log_refusal("the level %s is marked, but redis could not be told: %s", l->name,
                    log_errno_text(rc));
        return EX_UNAVAILABLE;
    }
    if (o->cfg->json) {
        struct buf b;
        buf_init(&b, 65536);
        buf_add_str(&b, "{\"level\": ");
        buf_add_json(&b, str_view(l->name));
        buf_add_str(&b, ", \"path\": ");
        buf_add_json(&b, str_view(l->path));
        printf("%.*s, \"id\": \"%s\", \"new\": %s}\n", (int)b.len, b.data ? b.data : "", id,
               stood ? "false" : "true");
        buf_release(&b);
    } else {
        printf("%s: %s %s\n", l->name, l->path, stood ? "was marked already" : "is marked");
    }
    return 0;
}

/* A level that is not apart from the others gets no marker. 0, or the exit status. */
static int mark_if_apart(struct ops *o, const struct level *l, const struct overlaps *found) {
    bool apart = true;
    size_t at = (size_t)(l - o->ladder.levels);
    for (size_t i = 0; i < o->ladder.len; i++)
        apart = !ops_say_overlap(o, found, at, i) && apart;
    return apart ? mark(o, l) : 1;
}

int ops_init_level(struct ops *o) {
    if (o->cfg->n_roots == 0) {
        log_refusal("--root is missing; init-level needs the directories under which levels lie");
        return EX_USAGE;
    }
    struct overlaps *found = malloc(sizeof *found);
    if (!found)
        return EX_OSERR;
    ops_look_at_levels(o);
    ops_overlaps(o, found);
    int status = 0;
    for (size_t i = 0; i < o->n_args && status == 0; i++) {
        const struct level *l = ladder_find(&o->ladder, str_view(o->args[i]));
        status = l ? mark_if_apart(o, l, found) : ops_no_level(o, o->args[i]);
    }
    free(found);
    return status;
}
