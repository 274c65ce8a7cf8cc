#include "job/ladder.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/overlap.h"

void ladder_init(struct ladder *l) {
    *l = (struct ladder){0};
}

void ladder_release(struct ladder *l) {
    for (size_t i = 0; i < l->len; i++) {
        free(l->levels[i].name);
        free(l->levels[i].path);
    }
    free(l->levels);
    ladder_init(l);
}

/* A NUL-terminated copy, or NULL. */
static char *copy_of(struct str_view v) {
    return strndup(v.ptr, v.len);
}

int ladder_add(struct ladder *l, struct str_view name, struct str_view path, uint64_t min_count) {
    if (name.len == 0 || path.len == 0 || memchr(name.ptr, 0, name.len) ||
        memchr(path.ptr, 0, path.len))
        return -EINVAL;
    if (l->len == LADDER_MAX_LEVELS)
        return -ENOBUFS;
    size_t at = 0;
    for (size_t i = 0; i < l->len; i++) {
        if (l->levels[i].min_count == min_count || str_is(name, l->levels[i].name))
            return -EEXIST;
        if (l->levels[i].min_count < min_count)
            at = i + 1;
    }
    struct level *levels = realloc(l->levels, (l->len + 1) * sizeof *levels);
    if (!levels)
        return -ENOMEM;
    l->levels = levels;
    struct level new = {copy_of(name), copy_of(path), min_count};
    if (!new.name || !new.path) {
        free(new.name);
        free(new.path);
        return -ENOMEM;
    }
    memmove(levels + at + 1, levels + at, (l->len - at) * sizeof *levels);
    levels[at] = new;
    l->len++;
    return 0;
}

const struct level *ladder_target(const struct ladder *l, uint64_t count) {
    if (l->len == 0)
        return NULL;
    const struct level *best = &l->levels[0];
    for (size_t i = 1; i < l->len && l->levels[i].min_count <= count; i++)
        best = &l->levels[i];
    return best;
}

const struct level *ladder_find(const struct ladder *l, struct str_view name) {
    for (size_t i = 0; i < l->len; i++)
        if (str_is(name, l->levels[i].name))
            return &l->levels[i];
    return NULL;
}

void ladder_add_names(const struct ladder *l, struct buf *out) {
    for (size_t i = l->len; i-- > 0;)
        buf_addf(out, "%s%s", l->levels[i].name, i ? ", " : "");
    if (l->len == 0)
        buf_add_str(out, "none");
}

bool ladder_same(const struct ladder *a, const struct ladder *b) {
    if (a->len != b->len)
        return false;
    for (size_t i = 0; i < a->len; i++) {
        const struct level *x = &a->levels[i], *y = &b->levels[i];
        if (x->min_count != y->min_count || strcmp(x->name, y->name) != 0 ||
            strcmp(x->path, y->path) != 0)
            return false;
    }
    return true;
}

void ladder_check_paths(const struct ladder *l, void (*say)(const char *why)) {
    for (size_t i = 0; i < l->len; i++)
        for (size_t k = 0; k < l->len; k++) {
            char why[1024];
            const struct level *a = &l->levels[i], *b = &l->levels[k];
            enum overlap is = overlap_of_paths(a->path, b->path);
            if (i == k || is == OVERLAP_NONE || (is == OVERLAP_SAME && i > k))
                continue;
            overlap_text(why, sizeof why, is, a->name, a->path, b->name, b->path);
            say(why);
        }
}

/* The level in an item of a list; empty when the item names none. */
static struct str_view named(struct str_view item, bool shares) {
    const char *eq = item.len ? memchr(item.ptr, '=', item.len) : NULL;
    if (shares)
        return (struct str_view){item.ptr, eq ? (size_t)(eq - item.ptr) : 0};
    while (item.len && *item.ptr == ' ') {
        item.ptr++;
        item.len--;
    }
    while (item.len && item.ptr[item.len - 1] == ' ')
        item.len--;
    return item;
}

/* Those of one option, "gold, silver" or "gold=80%,90%" (with `shares`); NULL is an empty one. */
static void check_names(const struct ladder *l, const char *option, const char *at, bool shares,
                        void (*say)(const char *why)) {
    while (at && *at) {
        char why[2048];
        struct buf names;
        size_t n = strcspn(at, ",");
        struct str_view name = named((struct str_view){at, n}, shares);
        at += n + (at[n] == ',' ? 1 : 0);
        if (name.len == 0 || ladder_find(l, name))
            continue;
        buf_init(&names, 1024); /* more names than that nobody reads */
        ladder_add_names(l, &names);
        snprintf(why, sizeof why,
                 "%s names the level '%.*s', which the catalogue does not have; it has %.*s",
                 option, STR_ARG(name), (int)names.len, names.data ? names.data : "");
        buf_release(&names);
        say(why);
    }
}

void ladder_check_names(const struct ladder *l, const struct config *cfg,
                        void (*say)(const char *why)) {
    check_names(l, "max-use", cfg->max_use, true, say);
    check_names(l, "levels", cfg->levels, false, say);
}
