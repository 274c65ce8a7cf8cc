#include "job/catalog.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

enum {
    BATCH_MAX = 128,       /* rows per SELECT: larger gains nothing more (ARCHITECTURE.md) */
    SELECTS_MAX = 1,       /* under way at once: the next fills meanwhile; two were no faster */
    WAITING_MAX = 1000000, /* one for each connection, of as many as max-connections may be */
    COMMITS_MAX = 64,      /* rows per UPDATE: two workers' groups; each row is compared with all */
    LADDER_REFRESH_MS = 3000, /* "every few seconds" */
    LADDER_RETRY_MS = 100,
    CONTENT_COLUMNS = 5,
    FILES_AGE_MS = 5000, /* files are counted at most this often, */
    FILES_REST = 50,     /* and after fifty times as long as it took: at most 2 % of a connection */
    FILES_REST_FAILED = 600, /* a catalogue too large to be counted in time: some ten minutes */
};

#define SELECT_LEVELS "SELECT level, path, min_count FROM level ORDER BY min_count"
#define SELECT_COLUMNS                                                                             \
    "SELECT cid, content_level, filename, update_time, "                                           \
    "TIMESTAMPDIFF(SECOND, update_time, NOW())"
#define SELECT_ROWS SELECT_COLUMNS " FROM contents WHERE "
/* With the path of the level, of all names that a collation takes for the same the very one. */
#define SELECT_PLACES                                                                              \
    SELECT_COLUMNS                                                                                 \
    ", (SELECT l.path FROM level l WHERE CAST(CONVERT(l.level USING utf8mb4) AS BINARY) = "        \
    "CAST(CONVERT(content_level USING utf8mb4) AS BINARY)) FROM contents WHERE cid IN ("
#define SELECT_CONTENTS SELECT_ROWS "cid IN ("
#define SELECT_FILES    "SELECT content_level, COUNT(*) FROM contents GROUP BY content_level"

/* One SELECT under way and those who wait for it. */
struct batch {
    struct catalog *catalog;
    struct lookup *first;
    bool busy;
};

/* Those who wait for the UPDATE under way, and those who wait for the next. */
struct commits {
    struct commit *sent;
    size_t n_sent; /* 0: none is under way */
    struct commit *first, **last;
    size_t waiting;
    struct loop_deferred pump;
    bool is_view; /* `contents` is */
};

/* How many files each level has: counted when somebody asks, not too often. */
struct files {
    uint64_t count[LADDER_MAX_LEVELS];
    size_t n_levels; /* of the ladder that they were counted for; 0: never */
    int64_t asked_ms, next_ms;
    bool asking;
};

/* The column of the levels' names in `contents`. */
struct column {
    char set[64]; /* its characters'; "": it is of bytes, or was not found */
    uint64_t length;
};

struct catalog {
    struct files files;
    struct loop *loop;
    struct db_pool *pool;
    struct ladder ladder;
    struct column column; /* and whether the tables can hold */
    struct buf names;     /* these levels, was looked at */
    struct loop_timer refresh;
    int levels_rc; /* how the last reading of the levels ended */
    void (*loaded)(void *ctx);
    void *loaded_ctx;
    void (*known)(void *ctx);
    void *known_ctx;
    void (*batch_seen)(void *ctx, size_t n);
    void *batch_ctx;
    struct lookup *first, **last;
    size_t waiting;
    struct batch batches[SELECTS_MAX];
    struct loop_deferred pump;
    struct commits commits;
};

/* ---- rows ---- */

static int read_content(const struct str_view row[CONTENT_COLUMNS], struct content *out) {
    uint64_t age_s;
    if (str_u64(row[0], UINT64_MAX, &out->cid) < 0 ||
        str_copy(out->level, sizeof out->level, row[1]) < 0 ||
        str_copy(out->filename, sizeof out->filename, row[2]) < 0)
        return -EPROTO;
    out->seen[0] = '\0';
    if (row[3].ptr && str_copy(out->seen, sizeof out->seen, row[3]) < 0)
        return -EPROTO;
    out->age_ms = row[4].ptr && str_u64(row[4], INT64_MAX / 1000, &age_s) == 0
                      ? (int64_t)age_s * 1000
                      : -1; /* NULL, or a time to come */
    return 0;
}

static void read_files(struct db_result *res, const struct ladder *ladder, uint64_t *files) {
    struct str_view row[2];
    memset(files, 0, ladder->len * sizeof *files);
    while (db_row(res, row, 2)) {
        const struct level *l = ladder_find(ladder, row[0]);
        if (l)
            (void)str_u64(row[1], UINT64_MAX, &files[l - ladder->levels]);
    }
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

/* ---- what the columns can hold ---- */

#define SELECT_COLUMN_SETS                                                                         \
    "SELECT column_name, character_set_name, collation_name, character_maximum_length "            \
    "FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = 'contents' " \
    "AND column_name IN ('content_level', 'filename')"

/* A name of a character set goes into a statement as it is. */
static bool is_plain(struct str_view v) {
    for (size_t i = 0; i < v.len; i++)
        if (!isalnum((unsigned char)v.ptr[i]) && v.ptr[i] != '_')
            return false;
    return v.len > 0;
}

static void read_columns(struct db_result *res, struct column *out, catalog_say_fn *say,
                         void *ctx) {
    struct str_view row[4];
    *out = (struct column){.length = 0};
    while (db_row(res, row, 4)) {
        bool is_level = str_is_nocase(row[0], "content_level");
        bool binary = row[2].len < 4 || memcmp(row[2].ptr + row[2].len - 4, "_bin", 4) == 0;
        if (is_level && row[1].ptr && is_plain(row[1])) {
            (void)str_copy(out->set, sizeof out->set, row[1]);
            (void)str_u64(row[3], UINT64_MAX, &out->length);
        }
        if (is_level || binary || !row[2].ptr)
            continue;
        char why[256];
        snprintf(why, sizeof why,
                 "file names in contents.filename compare by %.*s: of names that it takes for the "
                 "same (a.mp4, A.mp4) only one can have a row",
                 STR_ARG(row[2]));
        say(ctx, false, "", why);
    }
}

/* The levels whose names would not come back from that column as they are. */
static void add_misfits(struct buf *sql, const struct column *c) {
    buf_addf(sql,
             "SELECT level FROM level WHERE CHAR_LENGTH(level) > %" PRIu64
             " OR CAST(CONVERT(CONVERT(level USING %s) USING utf8mb4) AS BINARY) <> "
             "CAST(CONVERT(level USING utf8mb4) AS BINARY)",
             c->length, c->set);
}

static void read_misfits(struct db_result *res, const struct column *c, catalog_say_fn *say,
                         void *ctx) {
    struct str_view row[1];
    char level[JOB_LEVEL_BYTES], why[JOB_LEVEL_BYTES + 256];
    while (db_row(res, row, 1)) {
        if (str_copy(level, sizeof level, row[0]) < 0)
            continue;
        snprintf(why, sizeof why,
                 "contents.content_level (%" PRIu64 " characters of %s) cannot hold the level %s: "
                 "no move into it can be committed",
                 c->length, c->set, level);
        say(ctx, true, level, why);
    }
}

static void warn(void *ctx, bool misfit, const char *level, const char *why) {
    (void)ctx;
    (void)level;
    log_event(misfit ? LOG_ERROR : LOG_WARN, why);
}

static void on_misfits(void *p, int rc, struct db_result *res) {
    struct catalog *c = p;
    if (rc == 0)
        read_misfits(res, &c->column, warn, NULL);
}

static void on_columns(void *p, int rc, struct db_result *res) {
    struct catalog *c = p;
    struct buf sql;
    if (rc < 0)
        return;
    read_columns(res, &c->column, warn, NULL);
    if (!c->column.set[0])
        return;
    buf_init(&sql, 512);
    add_misfits(&sql, &c->column);
    if (!sql.failed)
        (void)db_pool_query(c->pool, buf_view(&sql), on_misfits, c);
    buf_release(&sql);
}

/* Once for each set of levels. */
static void look_at_columns(struct catalog *c) {
    struct buf names;
    buf_init(&names, 256 * 1024);
    ladder_add_names(&c->ladder, &names);
    bool known = !names.failed && c->names.len == names.len && names.len > 0 &&
                 memcmp(c->names.data, names.data, names.len) == 0;
    buf_release(known || names.failed ? &names : &c->names);
    if (known || names.failed)
        return;
    c->names = names;
    (void)db_pool_query(c->pool, str_view(SELECT_COLUMN_SETS), on_columns, c);
}

/* ---- the ladder, on the loop ---- */

/* Takes over what was read. Whether it is not what was known. */
static bool replace_ladder(struct catalog *c, struct ladder *read) {
    bool changed = !ladder_same(&c->ladder, read);
    ladder_release(&c->ladder);
    c->ladder = *read;
    return changed;
}

static void on_levels(void *p, int rc, struct db_result *res) {
    struct catalog *c = p;
    struct ladder read;
    bool changed = false;
    ladder_init(&read);
    if (rc == 0 && (rc = read_levels(res, &read)) == 0)
        changed = replace_ladder(c, &read);
    if (rc < 0 && rc != -ENOTCONN && rc != c->levels_rc) /* said once, not ten times a second */
        log_event(LOG_ERROR, "the level table cannot be used",
                  LOG_STR("error", rc == -EINVAL ? log_errno_text(rc) : db_pool_error(c->pool)));
    c->levels_rc = rc;
    if (rc == 0)
        look_at_columns(c);
    loop_timer_set(c->loop, &c->refresh,
                   loop_now_ms(c->loop) + (rc < 0 ? LADDER_RETRY_MS : LADDER_REFRESH_MS));
    if (c->ladder.len && changed && c->known)
        c->known(c->known_ctx);
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

void catalog_on_known(struct catalog *c, void (*known)(void *ctx), void *ctx) {
    c->known = known;
    c->known_ctx = ctx;
}

void catalog_on_batch(struct catalog *c, void (*seen)(void *ctx, size_t n), void *ctx) {
    c->batch_seen = seen;
    c->batch_ctx = ctx;
}

const struct ladder *catalog_ladder(const struct catalog *c) {
    return &c->ladder;
}

const char *catalog_error(const struct catalog *c) {
    return db_pool_error(c->pool);
}

/* ---- files, on the loop ---- */

static void on_files(void *p, int rc, struct db_result *res) {
    struct catalog *c = p;
    int64_t now_ms = loop_now_ms(c->loop);
    int64_t rest_ms = (now_ms - c->files.asked_ms) * (rc < 0 ? FILES_REST_FAILED : FILES_REST);
    c->files.asking = false;
    c->files.next_ms = now_ms + (rest_ms > FILES_AGE_MS ? rest_ms : FILES_AGE_MS);
    if (rc < 0)
        return;
    read_files(res, &c->ladder, c->files.count);
    c->files.n_levels = c->ladder.len;
}

const uint64_t *catalog_files(struct catalog *c) {
    if (!c->files.asking && loop_now_ms(c->loop) >= c->files.next_ms) {
        c->files.asked_ms = loop_now_ms(c->loop);
        c->files.asking = db_pool_query(c->pool, str_view(SELECT_FILES), on_files, c) == 0;
    }
    return c->files.n_levels && c->files.n_levels == c->ladder.len ? c->files.count : NULL;
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
    struct str_view row[CONTENT_COLUMNS];
    struct content content;
    bool unread = false;
    while (rc == 0 && db_row(res, row, CONTENT_COLUMNS)) {
        if (read_content(row, &content) == 0)
            batch_answer(b, &content);
        else
            unread = true; /* one that is out of bounds must not fail the others */
    }
    if (unread)
        rc = -EBADMSG; /* those without an answer: it may be theirs */
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
        size_t n = 0;
        for (; n < BATCH_MAX && c->first; n++) {
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
        if (c->batch_seen)
            c->batch_seen(c->batch_ctx, n);
        int rc = db_pool_query(c->pool, buf_view(&sql), on_rows, b);
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

/* ---- commits, batched ---- */

/* The conditional UPDATE of several rows in the making: which level each gets, which it is. */
struct update {
    struct buf levels, rows;
};

/* The index is named, for else a short table is read, and locked, from end to end. A view has none
 * (-ENOKEY): then it is left to the server. */
#define UPDATE_TABLE "UPDATE contents FORCE INDEX (PRIMARY)"
#define UPDATE_VIEW  "UPDATE contents"
#define UPDATE_SET   " SET content_level = CASE cid"
/* update_time always grows, even when the clock was set back or two moves share a tick. */
#define UPDATE_TIME                                                                                \
    " END, update_time = "                                                                         \
    "GREATEST(NOW(6), COALESCE(update_time + INTERVAL 1 MICROSECOND, NOW(6))) WHERE "
#define UPDATE_ORDER " ORDER BY cid" /* so are rows locked: two statements cannot deadlock */

enum { UPDATE_FRAME_BYTES = 512 }; /* what these are together, with room */

/* "the column holds this": byte for byte as we read it, in UTF-8, whatever its character set and
 * its collation, which may not tell case, accents or trailing blanks. A column of bytes may hold
 * what is no UTF-8. It is for rows that are found by a key. */
static void add_is(struct buf *sql, const char *column, struct str_view v) {
    buf_addf(sql,
             "IF(CHARSET(%s) = 'binary', CAST(%s AS BINARY), "
             "CAST(CONVERT(%s USING utf8mb4) AS BINARY)) = ",
             column, column, column);
    db_add_bytes(sql, v);
}

/* update_time as text, "" for NULL: a literal '' is NULL itself in some modes. */
static void add_seen(struct buf *sql, struct str_view seen) {
    if (seen.len == 0) {
        buf_add_str(sql, "update_time IS NULL");
        return;
    }
    buf_add_str(sql, "CAST(update_time AS BINARY) = ");
    db_add_bytes(sql, seen);
}

/* "the level still has that path", which no other session can change until the commit. */
static void add_path(struct buf *sql, struct str_view level, struct str_view path) {
    if (path.len == 0)
        return;
    buf_add_str(sql, " AND EXISTS (SELECT 1 FROM level l WHERE ");
    add_is(sql, "l.level", level);
    buf_add_str(sql, " AND ");
    add_is(sql, "l.path", path);
    buf_add_str(sql, ")");
}

static void update_init(struct update *u) {
    buf_init(&u->levels, DB_SQL_BYTES);
    buf_init(&u->rows, DB_SQL_BYTES);
}

/* False, and nothing added, when the statement would be too long or memory ran out. */
static bool update_add(struct update *u, const struct commit *commit) {
    size_t levels_len = u->levels.len, rows_len = u->rows.len;
    buf_addf(&u->levels, " WHEN %" PRIu64 " THEN ", commit->cid);
    db_add_text(&u->levels, commit->target);
    buf_addf(&u->rows, "%s(cid = %" PRIu64 " AND ", rows_len ? " OR " : "", commit->cid);
    add_is(&u->rows, "content_level", commit->src);
    buf_add_str(&u->rows, " AND ");
    add_is(&u->rows, "filename", commit->filename);
    buf_add_str(&u->rows, " AND ");
    add_seen(&u->rows, commit->seen);
    add_path(&u->rows, commit->target, commit->path);
    buf_add_str(&u->rows, ")");
    if (!u->levels.failed && !u->rows.failed &&
        u->levels.len + u->rows.len + UPDATE_FRAME_BYTES <= DB_SQL_BYTES)
        return true;
    u->levels.len = levels_len;
    u->rows.len = rows_len;
    u->levels.failed = u->rows.failed = false;
    return false;
}

/* The statement, into `sql`, which has failed when there is none to send; `u` is released. */
static void update_end(struct update *u, bool is_view, struct buf *sql) {
    buf_init(sql, DB_SQL_BYTES);
    buf_add_str(sql, is_view ? UPDATE_VIEW UPDATE_SET : UPDATE_TABLE UPDATE_SET);
    buf_add(sql, u->levels.data, u->levels.len);
    buf_add_str(sql, UPDATE_TIME);
    buf_add(sql, u->rows.data, u->rows.len);
    buf_add_str(sql, UPDATE_ORDER);
    sql->failed |= u->rows.len == 0;
    buf_release(&u->levels);
    buf_release(&u->rows);
}

/* Puts what was sent back in front, each to go alone: one row that is locked, or that the database
 * refuses, must not take the others with it. What was changed nevertheless is found so. */
static void take_apart(struct commits *w) {
    struct commit **at = &w->sent;
    for (; *at; at = &(*at)->next)
        (*at)->alone = true;
    *at = w->first;
    if (!w->first)
        w->last = at;
    w->first = w->sent;
    w->waiting += w->n_sent;
}

/* The statement is over; `all`: it changed as many rows as there are commits. */
static void commits_over(struct catalog *c, int rc, bool all) {
    struct commits *w = &c->commits;
    struct commit *sent = w->sent;
    bool is_view = rc == -ENOKEY && !w->is_view;
    w->is_view |= is_view;
    if (is_view || (rc < 0 && rc != -ENOTCONN && w->n_sent > 1)) {
        take_apart(w);
        sent = NULL;
    }
    w->sent = NULL;
    w->n_sent = 0;
    if (w->first)
        loop_defer(c->loop, &w->pump);
    while (sent) {
        struct commit *commit = sent;
        sent = commit->next;
        commit->done(commit, rc, all);
    }
}

static void on_updated(void *p, int rc, struct db_result *res) {
    struct catalog *c = p;
    commits_over(c, rc, rc == 0 && db_changed(res) == c->commits.n_sent);
}

static bool is_sent(const struct commits *w, uint64_t cid) {
    const struct commit *commit = w->sent;
    while (commit && commit->cid != cid)
        commit = commit->next;
    return commit;
}

/* Moves what may share one statement from those who wait to those who are sent. Two commits of one
 * row may not: each is to be judged by the row as the other left it. */
static void gather(struct commits *w, struct update *u) {
    struct commit **tail = &w->sent;
    struct commit **at = &w->first;
    while (*at && w->n_sent < COMMITS_MAX) {
        struct commit *commit = *at;
        if (is_sent(w, commit->cid) || (commit->alone && w->n_sent > 0)) {
            at = &commit->next;
            continue;
        }
        bool added = update_add(u, commit);
        if (!added && w->n_sent > 0)
            break;
        *at = commit->next;
        commit->next = NULL;
        *tail = commit;
        tail = &commit->next;
        w->n_sent++;
        w->waiting--;
        if (!added || commit->alone)
            break;
    }
    if (!*at)
        w->last = at;
}

/* Sends what waits as one UPDATE, when none is under way. */
static void on_pump_commits(void *p) {
    struct catalog *c = p;
    struct commits *w = &c->commits;
    struct update u;
    struct buf sql;
    if (w->n_sent > 0 || !w->first)
        return;
    update_init(&u);
    gather(w, &u);
    update_end(&u, w->is_view, &sql);
    int rc = sql.failed ? -ENOMEM : db_pool_query(c->pool, buf_view(&sql), on_updated, c);
    buf_release(&sql);
    if (rc < 0)
        commits_over(c, rc, false);
}

int catalog_commit(struct catalog *c, struct commit *commit) {
    struct commits *w = &c->commits;
    if (!db_pool_up(c->pool))
        return -ENOTCONN;
    if (w->waiting >= WAITING_MAX)
        return -ENOBUFS;
    commit->alone = false;
    commit->next = NULL;
    *w->last = commit;
    w->last = &commit->next;
    w->waiting++;
    loop_defer(c->loop, &w->pump);
    return 0;
}

struct catalog *catalog_new(struct loop *loop, struct db_pool *pool) {
    struct catalog *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->loop = loop;
    c->pool = pool;
    ladder_init(&c->ladder);
    buf_init(&c->names, 1);
    c->last = &c->first;
    c->refresh = (struct loop_timer){.fire = on_refresh, .ctx = c};
    c->pump = (struct loop_deferred){.call = on_pump, .ctx = c};
    c->commits.last = &c->commits.first;
    c->commits.pump = (struct loop_deferred){.call = on_pump_commits, .ctx = c};
    for (size_t i = 0; i < SELECTS_MAX; i++)
        c->batches[i].catalog = c;
    return c;
}

void catalog_free(struct catalog *c) {
    if (!c)
        return;
    loop_timer_cancel(c->loop, &c->refresh);
    ladder_release(&c->ladder);
    buf_release(&c->names);
    free(c);
}

/* ---- blocking ---- */

/* Runs what was composed, which is released. */
static int query_composed(struct db *db, struct buf *sql, struct db_result **res) {
    int rc = sql->failed ? -EINVAL : db_query(db, buf_view(sql), res);
    buf_release(sql);
    return rc;
}

/* The one row that was asked for: 1: found, 0: there is none, or -errno. */
static int one_content(struct db *db, struct buf *sql, struct content *out) {
    struct db_result *res;
    struct str_view row[CONTENT_COLUMNS];
    int rc = query_composed(db, sql, &res);
    if (rc < 0)
        return rc;
    if (db_row(res, row, CONTENT_COLUMNS)) {
        rc = read_content(row, out);
        rc = rc < 0 ? rc : 1;
    }
    db_result_free(res);
    return rc;
}

int catalog_content(struct db *db, uint64_t cid, struct content *out) {
    struct buf sql;
    buf_init(&sql, 512);
    buf_addf(&sql, SELECT_CONTENTS "%" PRIu64 ")", cid);
    return one_content(db, &sql, out);
}

/* Hands over every row of the result: how many, or -errno. */
static int each_row(struct db_result *res, void (*each)(void *ctx, const struct content *row),
                    void *ctx) {
    struct str_view row[CONTENT_COLUMNS];
    struct content content;
    int n = 0, rc = 0;
    while (rc == 0 && db_row(res, row, CONTENT_COLUMNS)) {
        rc = read_content(row, &content);
        if (rc == 0) {
            n++;
            each(ctx, &content);
        }
    }
    return rc < 0 ? rc : n;
}

/* Asks `select` for the rows of those cids. */
static int select_cids(struct db *db, const char *select, const uint64_t *cids, size_t n,
                       struct db_result **res) {
    struct buf sql;
    buf_init(&sql, DB_SQL_BYTES);
    buf_add_str(&sql, select);
    for (size_t i = 0; i < n; i++) {
        buf_add_str(&sql, i ? ", " : "");
        buf_add_u64(&sql, cids[i]);
    }
    buf_add_str(&sql, ")");
    return query_composed(db, &sql, res);
}

int catalog_places(struct db *db, const uint64_t *cids, size_t n, catalog_place_fn *each,
                   void *ctx) {
    struct db_result *res;
    struct str_view row[CONTENT_COLUMNS + 1];
    struct content content;
    int rc = select_cids(db, SELECT_PLACES, cids, n, &res);
    if (rc < 0)
        return rc;
    while (rc == 0 && db_row(res, row, CONTENT_COLUMNS + 1)) {
        rc = read_content(row, &content);
        if (rc == 0)
            each(ctx, &content, row[CONTENT_COLUMNS]);
    }
    db_result_free(res);
    return rc;
}

int catalog_contents(struct db *db, const uint64_t *cids, size_t n,
                     void (*each)(void *ctx, const struct content *row), void *ctx) {
    struct db_result *res;
    int rc = select_cids(db, SELECT_CONTENTS, cids, n, &res);
    if (rc < 0)
        return rc;
    rc = each_row(res, each, ctx);
    db_result_free(res);
    return rc < 0 ? rc : 0;
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

int catalog_fits(struct db *db, catalog_say_fn *say, void *ctx) {
    struct db_result *res;
    struct column column;
    struct buf sql;
    int rc = db_query(db, str_view(SELECT_COLUMN_SETS), &res);
    if (rc < 0)
        return rc;
    read_columns(res, &column, say, ctx);
    db_result_free(res);
    if (!column.set[0])
        return 0;
    buf_init(&sql, 512);
    add_misfits(&sql, &column);
    rc = query_composed(db, &sql, &res);
    if (rc < 0)
        return rc;
    read_misfits(res, &column, say, ctx);
    db_result_free(res);
    return 0;
}

int catalog_count_files(struct db *db, const struct ladder *ladder, uint64_t *files) {
    struct db_result *res;
    int rc = db_query(db, str_view(SELECT_FILES), &res);
    if (rc < 0)
        return rc;
    read_files(res, ladder, files);
    db_result_free(res);
    return 0;
}

int catalog_page(struct db *db, uint64_t after, size_t most,
                 void (*each)(void *ctx, const struct content *row), void *ctx) {
    struct buf sql;
    struct db_result *res;
    buf_init(&sql, 512);
    buf_addf(&sql, SELECT_ROWS "cid > %" PRIu64 " ORDER BY cid LIMIT %zu", after, most);
    int rc = query_composed(db, &sql, &res);
    if (rc < 0)
        return rc;
    rc = each_row(res, each, ctx);
    db_result_free(res);
    return rc;
}

int catalog_by_name(struct db *db, struct str_view name, uint64_t but, struct content *out) {
    struct buf sql;
    buf_init(&sql, DB_SQL_BYTES);
    if (str_is_utf8(name)) {
        buf_add_str(&sql, SELECT_ROWS "filename = "); /* by the column's index and collation, */
        db_add_text(&sql, name);
        buf_add_str(&sql, " AND "); /* of those it takes for the same the one that is */
        add_is(&sql, "filename", name);
    } else { /* a column of characters has none such */
        buf_add_str(&sql, SELECT_ROWS "CHARSET(filename) = 'binary' AND filename = ");
        db_add_bytes(&sql, name);
    }
    if (but)
        buf_addf(&sql, " AND cid <> %" PRIu64, but);
    int rc = one_content(db, &sql, out);
    return rc == -EILSEQ ? 0 : rc; /* the column cannot hold that name */
}

/* One row, where no other waits for it; as catalog_correct. */
static int correct(struct db *db, const struct content *seen, const char *level, bool is_view) {
    struct commit commit = {.cid = seen->cid,
                            .filename = str_view(seen->filename),
                            .src = str_view(seen->level),
                            .target = str_view(level),
                            .seen = str_view(seen->seen)};
    struct update u;
    struct buf sql;
    struct db_result *res;
    update_init(&u);
    (void)update_add(&u, &commit);
    update_end(&u, is_view, &sql);
    int rc = query_composed(db, &sql, &res);
    if (rc < 0)
        return rc;
    rc = db_changed(res) == 1;
    db_result_free(res);
    return rc;
}

int catalog_correct(struct db *db, const struct content *seen, const char *level) {
    int rc = correct(db, seen, level, false);
    return rc == -ENOKEY ? correct(db, seen, level, true) : rc;
}
