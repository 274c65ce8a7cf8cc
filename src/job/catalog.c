#include "job/catalog.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

enum {
    BATCH_MAX = 128,          /* rows per SELECT: larger gains nothing more (ARCHITECTURE.md) */
    SELECTS_MAX = 1,          /* under way at once: the next fills while these run */
    WAITING_MAX = 8192,       /* more than all connections can have */
    LADDER_REFRESH_MS = 3000, /* "every few seconds" */
    LADDER_RETRY_MS = 100,
};

#define SELECT_LEVELS "SELECT level, path, min_count FROM level ORDER BY min_count"
#define SELECT_CONTENTS                                                                            \
    "SELECT cid, content_level, filename, update_time FROM contents WHERE cid IN ("

/* One SELECT under way and those who wait for it. */
struct batch {
    struct catalog *catalog;
    struct lookup *first;
    bool busy;
};

struct catalog {
    struct loop *loop;
    struct db_pool *pool;
    struct ladder ladder;
    struct loop_timer refresh;
    void (*loaded)(void *ctx);
    void *loaded_ctx;
    struct lookup *first, **last;
    size_t waiting;
    struct batch batches[SELECTS_MAX];
    struct loop_deferred pump;
};

/* ---- rows ---- */

static int read_content(const struct str_view row[4], struct content *out) {
    if (str_u64(row[0], UINT64_MAX, &out->cid) < 0 ||
        str_copy(out->level, sizeof out->level, row[1]) < 0 ||
        str_copy(out->filename, sizeof out->filename, row[2]) < 0)
        return -EPROTO;
    out->seen[0] = '\0';
    if (row[3].ptr && str_copy(out->seen, sizeof out->seen, row[3]) < 0)
        return -EPROTO;
    return 0;
}

static int read_levels(struct db_result *res, struct ladder *out) {
    struct ladder l;
    struct str_view row[3];
    ladder_init(&l);
    while (db_row(res, row, 3)) {
        uint64_t min_count;
        int rc = str_u64(row[2], UINT64_MAX, &min_count);
        if (rc == 0)
            rc = ladder_add(&l, row[0], row[1], min_count);
        if (rc < 0) {
            ladder_release(&l);
            return -EINVAL;
        }
    }
    ladder_release(out);
    *out = l;
    return 0;
}

/* ---- the ladder, on the loop ---- */

static void on_levels(void *p, int rc, struct db_result *res) {
    struct catalog *c = p;
    if (rc == 0)
        rc = read_levels(res, &c->ladder);
    if (rc < 0 && rc != -ENOTCONN)
        log_event(LOG_ERROR, "the level table cannot be used", LOG_ERRNO(rc));
    loop_timer_set(c->loop, &c->refresh,
                   loop_now_ms(c->loop) + (rc < 0 ? LADDER_RETRY_MS : LADDER_REFRESH_MS));
    if (c->loaded) {
        void (*loaded)(void *) = c->loaded;
        c->loaded = NULL;
        loaded(c->loaded_ctx);
    }
}

static void on_refresh(void *p) {
    struct catalog *c = p;
    if (db_pool_query(c->pool, str_view(SELECT_LEVELS), on_levels, c) < 0)
        loop_timer_set(c->loop, &c->refresh, loop_now_ms(c->loop) + LADDER_RETRY_MS);
}

void catalog_on_loaded(struct catalog *c, void (*loaded)(void *ctx), void *ctx) {
    c->loaded = loaded;
    c->loaded_ctx = ctx;
    on_refresh(c);
}

const struct ladder *catalog_ladder(const struct catalog *c) {
    return &c->ladder;
}

/* ---- look-ups, batched ---- */

static void batch_answer(struct batch *b, const struct content *row) {
    for (struct lookup **at = &b->first; *at;) {
        struct lookup *l = *at;
        if (row && l->cid != row->cid) {
            at = &l->next;
            continue;
        }
        *at = l->next;
        l->done(l, 0, row);
    }
}

static void on_rows(void *p, int rc, struct db_result *res) {
    struct batch *b = p;
    struct catalog *c = b->catalog;
    struct str_view row[4];
    struct content content;
    while (rc == 0 && db_row(res, row, 4)) {
        rc = read_content(row, &content);
        if (rc == 0)
            batch_answer(b, &content);
    }
    while (b->first) {
        struct lookup *l = b->first;
        b->first = l->next;
        l->done(l, rc, NULL);
    }
    b->busy = false;
    if (c->first)
        loop_defer(c->loop, &c->pump);
}

/* Sends what waits as one SELECT, when one more may be under way. */
static void on_pump(void *p) {
    struct catalog *c = p;
    for (size_t i = 0; i < SELECTS_MAX && c->first; i++) {
        struct batch *b = &c->batches[i];
        if (b->busy)
            continue;
        struct buf sql;
        buf_init(&sql, DB_SQL_BYTES);
        buf_add_str(&sql, SELECT_CONTENTS);
        struct lookup **tail = &b->first;
        for (size_t n = 0; n < BATCH_MAX && c->first; n++) {
            struct lookup *l = c->first;
            c->first = l->next;
            c->waiting--;
            if (n > 0)
                buf_add_str(&sql, ",");
            buf_add_u64(&sql, l->cid);
            *tail = l;
            tail = &l->next;
        }
        *tail = NULL;
        if (!c->first)
            c->last = &c->first;
        buf_add_str(&sql, ")");
        b->busy = true;
        int rc = db_pool_query(c->pool, (struct str_view){sql.data, sql.len}, on_rows, b);
        buf_release(&sql);
        if (rc < 0)
            on_rows(b, rc, NULL);
    }
}

int catalog_lookup(struct catalog *c, struct lookup *l) {
    if (!db_pool_up(c->pool))
        return -ENOTCONN;
    if (c->waiting >= WAITING_MAX)
        return -ENOBUFS;
    l->next = NULL;
    *c->last = l;
    c->last = &l->next;
    c->waiting++;
    loop_defer(c->loop, &c->pump);
    return 0;
}

int catalog_commit(struct catalog *c, uint64_t cid, struct str_view filename, struct str_view src,
                   struct str_view target, struct str_view seen, db_done_fn *done, void *ctx) {
    struct buf sql;
    buf_init(&sql, DB_SQL_BYTES);
    /* update_time always grows, even when the clock was set back or two moves share a tick. */
    buf_add_str(&sql, "UPDATE contents SET content_level = ");
    db_add_text(&sql, target);
    buf_addf(
        &sql,
        ", update_time = GREATEST(NOW(6), COALESCE(update_time + INTERVAL 1 MICROSECOND, NOW(6)))"
        " WHERE cid = %" PRIu64 " AND content_level = ",
        cid);
    db_add_text(&sql, src);
    buf_add_str(&sql, " AND filename = ");
    db_add_text(&sql, filename);
    buf_add_str(&sql, " AND COALESCE(CAST(update_time AS CHAR), '') = ");
    db_add_text(&sql, seen);
    int rc = sql.failed ? -EINVAL
                        : db_pool_query(c->pool, (struct str_view){sql.data, sql.len}, done, ctx);
    buf_release(&sql);
    return rc;
}

struct catalog *catalog_new(struct loop *loop, struct db_pool *pool) {
    struct catalog *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->loop = loop;
    c->pool = pool;
    ladder_init(&c->ladder);
    c->last = &c->first;
    c->refresh = (struct loop_timer){.fire = on_refresh, .ctx = c};
    c->pump = (struct loop_deferred){.call = on_pump, .ctx = c};
    for (size_t i = 0; i < SELECTS_MAX; i++)
        c->batches[i].catalog = c;
    return c;
}

void catalog_free(struct catalog *c) {
    if (!c)
        return;
    loop_timer_cancel(c->loop, &c->refresh);
    ladder_release(&c->ladder);
    free(c);
}

/* ---- blocking ---- */

int catalog_content(struct db *db, uint64_t cid, struct content *out) {
    struct buf sql;
    struct db_result *res;
    struct str_view row[4];
    buf_init(&sql, 512);
    buf_addf(&sql, SELECT_CONTENTS "%" PRIu64 ")", cid);
    int rc = db_query(db, (struct str_view){sql.data, sql.len}, &res);
    buf_release(&sql);
    if (rc < 0)
        return rc;
    if (db_row(res, row, 4)) {
        rc = read_content(row, out);
        rc = rc < 0 ? rc : 1;
    }
    db_result_free(res);
    return rc;
}

int catalog_levels(struct db *db, struct ladder *out) {
    struct db_result *res;
    int rc = db_query(db, str_view(SELECT_LEVELS), &res);
    if (rc < 0)
        return rc;
    rc = read_levels(res, out);
    db_result_free(res);
    return rc;
}
