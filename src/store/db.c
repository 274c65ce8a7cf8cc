#include "store/db.h"

#include <errno.h>
#include <mysql.h>
#include <errmsg.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"

enum {
    CONNECT_TIMEOUT_S = 1,  /* of the blocking face, the least that can be said */
    REACH_MS = 500,         /* to connect: within a second of a host's return it is tried again */
    GREET_MS = 2000,        /* to be let in */
    QUERY_TIMEOUT_MS = 900, /* a server that hangs: /health must answer within 1 s */
    PROBE_MS = 400,         /* then an idle connection is asked whether the server hangs */
    SLOW_SAID_MS = 60000,   /* between two log lines about statements that take too long */
    BACKOFF_FIRST_MS = 50,
    BACKOFF_MAX_MS = 250,    /* so that a server that came back is used within a second */
    LOOK_MS = 1000,          /* between two looks whether it still takes writes */
    REDIAL_MS = 100,         /* between two connections that are made anew while it does not */
    POOL_WAITING_MAX = 4096, /* past it the database is slower than the posts come: say so */
    POOL_SIZE_MAX = 16,
    ER_SHUTDOWN = 1053,
    ER_OPTION_PREVENTS = 1290, /* --read-only */
    ER_READ_ONLY_MODE = 1836,
};

/*
 * What every connection sets for itself first, whatever the server's defaults are and whatever its
 * init_connect did before: a mode that was only hoped for has lost a commit.
 *
 * completion_type before ROLLBACK, which else may begin a transaction again (CHAIN) or end the
 * connection (RELEASE). Strict: a name that its column cannot hold is refused, not shortened.
 * No limits of rows, work and time that a session may have: what a statement leaves out silently
 * would be taken for all there is. The time zone is everybody's, so that a TIMESTAMP reads the same
 * in every session. REPEATABLE READ: nothing uncommitted is ever read, and a binary log by
 * statements is possible.
 *
 * A statement that was given up goes on in the server, and holds the locks it has, until it gets
 * the one it waits for: not for the server's default of 50 s (rows) or a day (tables). One second
 * is the least that all servers take.
 *
 * A node of a Galera cluster answers when it has what the others had committed before: reads and
 * UPDATEs, wsrep_sync_wait 1 and 2. Servers that are built without it have no such variable, and
 * MySQL has no way to ask for it without an error.
 *
 * MariaDB alone reads what is in M! comments; MySQL alone, from 5.7 on, those with a version
 * between 50700 and 99999 (mariadb.com/kb/en/comment-syntax).
 */
static const char *const session_modes[] = {
    "SET SESSION completion_type = 0, sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', "
    "time_zone = @@GLOBAL.time_zone, innodb_lock_wait_timeout = 1, lock_wait_timeout = 1, "
    "sql_safe_updates = 0, sql_big_selects = 1, sql_select_limit = 18446744073709551615, "
    "foreign_key_checks = 1 /*M!100000 , max_statement_time = 0 */ "
    "/*!50708 , max_execution_time = 0 */",
    "ROLLBACK", /* of what init_connect began */
    "SET SESSION autocommit = 1",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ WRITE",
    "SET NAMES utf8mb4 COLLATE utf8mb4_bin",
    "/*M!100600 BEGIN NOT ATOMIC DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END; "
    "EXECUTE IMMEDIATE 'SET SESSION wsrep_sync_wait = 3'; END */ /*!50700 DO 0 */",
};

/*
 * Whether the server takes writes. The settings are asked for first, since reading them waits for
 * nothing, not even for a backup's lock on all tables. They do not bind everybody (READ ONLY
 * ADMIN): where one is set, an UPDATE of no row says whether it binds us, in the server's words.
 */
#define ASK_READ_ONLY "SELECT @@global.read_only, @@global.innodb_read_only"
#define TRY_TO_WRITE  "UPDATE contents SET content_level = content_level WHERE 1 = 0"

void db_add_text(struct buf *sql, struct str_view v) {
    buf_add_str(sql, "_utf8mb4 ");
    db_add_bytes(sql, v);
}

void db_add_bytes(struct buf *sql, struct str_view v) {
    static const char hex[] = "0123456789abcdef";
    buf_add(sql, "X'", 2);
    for (size_t i = 0; i < v.len; i++) {
        unsigned char c = (unsigned char)v.ptr[i];
        buf_add(sql, (char[]){hex[c >> 4], hex[c & 15]}, 2);
    }
    buf_add(sql, "'", 1);
}

struct db_result {
    MYSQL_RES *res; /* NULL for a statement without rows */
    uint64_t changed;
};

bool db_row(struct db_result *res, struct str_view *columns, size_t n) {
    if (!res || !res->res || mysql_num_fields(res->res) < n)
        return false;
    MYSQL_ROW row = mysql_fetch_row(res->res);
    if (!row)
        return false;
    unsigned long *lens = mysql_fetch_lengths(res->res);
    for (size_t i = 0; i < n; i++)
        columns[i] = (struct str_view){row[i], row[i] ? lens[i] : 0};
    return true;
}

uint64_t db_changed(const struct db_result *res) {
    return res->changed;
}

/* Server errors (mysqld_error.h) whose class does not say what they mean to the caller. */
static const struct {
    unsigned code;
    int rc;
} meanings[] = {
    {1040, -ENOTCONN}, /* too many connections */
    {1053, -ENOTCONN}, /* shutdown in progress */
    {1927, -ENOTCONN}, /* connection was killed */
    {3032, -ENOTCONN}, /* offline mode */
    {1203, -EAGAIN},   /* too many connections of the user */
    {1226, -EAGAIN},   /* a limit of the user, for an hour */
    {1176, -ENOKEY},   /* no such index */
    {1267, -EILSEQ},   /* illegal mix of collations: the column's set lacks the character */
    {1300, -EILSEQ},   /* no such character */
    {1265, -EPROTO},   /* data truncated: no such value in an ENUM */
    {1288, -EPROTO},   /* not updatable */
    {1348, -EPROTO},   /* the column of a view is not updatable */
    {1356, -EPROTO},   /* the view is invalid */
    {1364, -EPROTO},   /* no default */
    {1366, -EPROTO},   /* incorrect string value */
    {1369, -EPROTO},   /* CHECK OPTION of a view */
    {1442, -EPROTO},   /* a trigger changes the table that it is of */
    {1449, -EPROTO},   /* the definer of a trigger or view does not exist */
    {1644, -EPROTO},   /* SIGNAL */
    {3819, -EPROTO},   /* CHECK, in MySQL */
};

/* Only the server's own words end an exchange. After any other failure, and the client library
 * reports some without a code, a part of the answer may be unread: it would be taken for the answer
 * to the next question. A trigger's SIGNAL may have any number. */
static bool is_by_server(unsigned code, const char *state) {
    bool is_client = (code >= CR_MIN_ERROR && code <= CR_MAX_ERROR) ||
                     (code >= CER_MIN_ERROR && code <= CER_MAX_ERROR);
    return strncmp(state, "45", 2) == 0 || (code >= 1000 && !is_client);
}

/* What an error means to the caller. By class (SQLSTATE): data that does not fit, constraints,
 * rights and names, CHECK OPTION and what triggers say stay as they are until somebody changes
 * something. All else passes: locks, a server that is read-only, full, or not ready. */
static int error_rc(MYSQL *m) {
    unsigned code = mysql_errno(m);
    const char *state = mysql_sqlstate(m);
    if (!is_by_server(code, state))
        return -ENOTCONN;
    for (size_t i = 0; i < sizeof meanings / sizeof *meanings; i++)
        if (meanings[i].code == code)
            return meanings[i].rc;
    bool stays = strncmp(state, "22", 2) == 0 || strncmp(state, "23", 2) == 0 ||
                 strncmp(state, "42", 2) == 0 || strncmp(state, "44", 2) == 0 ||
                 strncmp(state, "45", 2) == 0;
    return stays ? -EPROTO : -EAGAIN;
}

/* Whether the last error is the server's own; one that ends is as good as away. */
static bool says_error(MYSQL *m) {
    unsigned code = mysql_errno(m);
    return code != ER_SHUTDOWN && is_by_server(code, mysql_sqlstate(m));
}

/* What the system said to a connect(2), which the library tells as "... (111)"; 0: nothing. */
static int connect_errno(MYSQL *m) {
    const char *number = strrchr(mysql_error(m), '(');
    bool is_connect = mysql_errno(m) == CR_CONN_HOST_ERROR || mysql_errno(m) == CR_CONNECTION_ERROR;
    return is_connect && number ? -atoi(number + 1) : 0;
}

static void set_fault(struct server_fault *f, MYSQL *m, int rc) {
    int by_system = connect_errno(m);
    if (by_system < 0 || mysql_errno(m) == 0)
        fault_set(f, SERVER_AWAY, log_errno_text(by_system < 0 ? by_system : rc));
    else
        fault_set(f, says_error(m) ? SERVER_REFUSES : SERVER_AWAY, mysql_error(m));
}

static void set_options(MYSQL *m) {
    my_bool no = 0;
    mysql_options(m, MYSQL_SET_CHARSET_NAME, "utf8mb4");
    mysql_options(m, MYSQL_OPT_SSL_VERIFY_SERVER_CERT, &no);
    mysql_options(m, MYSQL_OPT_RECONNECT, &no);
    for (size_t i = 0; i < sizeof session_modes / sizeof *session_modes; i++)
        mysql_options(m, MYSQL_INIT_COMMAND, session_modes[i]);
}

/* The words of the last error, the server's own when it said something; one line. */
static void keep_words(char out[DB_ERROR_BYTES], MYSQL *m, int rc) {
    const char *words = mysql_errno(m) ? mysql_error(m) : log_errno_text(rc);
    snprintf(out, DB_ERROR_BYTES, "%s", words);
    for (char *p = out; *p; p++)
        if (*p == '\n' || *p == '\r' || *p == '\t')
            *p = ' ';
}

static const char *or_null(const char *s) {
    return s[0] ? s : NULL;
}

/* The library gets an address, never a name: it would look that up itself, for as long as it takes,
 * and take localhost for a socket of its own choice. NULL: the URL's socket. */

/* ---- blocking ---- */

struct db {
    MYSQL mysql;
    char error[DB_ERROR_BYTES];
};

static int to_events(int status) {
    return (status & MYSQL_WAIT_READ ? POLLIN : 0) | (status & MYSQL_WAIT_WRITE ? POLLOUT : 0) |
           (status & MYSQL_WAIT_EXCEPT ? POLLPRI : 0);
}

static int to_ready(int events) {
    return (events & (POLLIN | POLLHUP | POLLERR) ? MYSQL_WAIT_READ : 0) |
           (events & (POLLOUT | POLLERR) ? MYSQL_WAIT_WRITE : 0) |
           (events & POLLPRI ? MYSQL_WAIT_EXCEPT : 0);
}

/* Connects as the loop does, for the library's own way of waiting knows only whole seconds, and not
 * what went wrong. 0, -ETIMEDOUT, -ECONNREFUSED (or refused by the server). */
static int connect_at(MYSQL *m, const struct db_url *url, const char *address, int timeout_ms) {
    MYSQL *ret = NULL;
    int64_t until_ms = clock_mono_ms() + (timeout_ms < REACH_MS ? timeout_ms : REACH_MS);
    bool reached = false;
    int status = mysql_real_connect_start(&ret, m, address, url->user, url->password, url->name,
                                          (unsigned)url->port, or_null(url->socket), 0);
    while (status) {
        int64_t left_ms = until_ms - clock_mono_ms();
        struct pollfd p = {.fd = mysql_get_socket(m), .events = (short)to_events(status)};
        int n = left_ms > 0 ? poll(&p, 1, (int)left_ms) : 0;
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            shutdown(p.fd, SHUT_RDWR); /* so that closing it does not wait */
            return -ETIMEDOUT;
        }
        if (!reached)
            until_ms = clock_mono_ms() + timeout_ms;
        reached = true;
        status = mysql_real_connect_cont(&ret, m, to_ready(p.revents));
    }
    return ret ? 0 : -ECONNREFUSED;
}

/* At `address`, or at the socket. */
static int open_at(const struct db_url *url, const char *address, int timeout_ms, struct db **out,
                   struct server_fault *fault) {
    struct db *db = calloc(1, sizeof *db);
    fault_set(fault, db ? SERVER_FINE : SERVER_AWAY, db ? NULL : log_errno_text(-ENOMEM));
    if (!db)
        return -ENOMEM;
    unsigned timeout_s = (unsigned)(timeout_ms + 999) / 1000;
    mysql_init(&db->mysql);
    mysql_options(&db->mysql, MYSQL_OPT_NONBLOCK, 0);
    set_options(&db->mysql);
    mysql_options(&db->mysql, MYSQL_OPT_READ_TIMEOUT, &timeout_s);
    mysql_options(&db->mysql, MYSQL_OPT_WRITE_TIMEOUT, &timeout_s);
    int rc = connect_at(&db->mysql, url, address, timeout_ms);
    if (rc < 0) {
        rc = says_error(&db->mysql) ? -EACCES : rc;
        set_fault(fault, &db->mysql, rc);
        db_close(db);
        return rc;
    }
    *out = db;
    return 0;
}

void db_close(struct db *db) {
    if (!db)
        return;
    mysql_close(&db->mysql);
    free(db);
}

int db_query(struct db *db, struct str_view sql, struct db_result **out) {
    if (mysql_real_query(&db->mysql, sql.ptr, sql.len) != 0) {
        int failed = error_rc(&db->mysql);
        keep_words(db->error, &db->mysql, failed);
        log_event(LOG_DEBUG, "database error", LOG_STR("error", db->error));
        return failed;
    }
    struct db_result *res = calloc(1, sizeof *res);
    if (!res)
        return -ENOTCONN; /* the reply is unread: the connection is of no more use */
    res->res = mysql_store_result(&db->mysql);
    if (mysql_errno(&db->mysql) != 0 || (!res->res && mysql_field_count(&db->mysql) > 0)) {
        int rc = error_rc(&db->mysql);
        keep_words(db->error, &db->mysql, rc);
        db_result_free(res);
        return rc;
    }
    res->changed = mysql_affected_rows(&db->mysql);
    *out = res;
    return 0;
}

const char *db_error(const struct db *db) {
    return db->error;
}

void db_result_free(struct db_result *res) {
    if (!res)
        return;
    if (res->res)
        mysql_free_result(res->res);
    free(res);
}

/* A switch, or a list of more than two that begins with OFF. */
static bool is_set(struct db_result *res) {
    struct str_view v[2];
    if (!res || !db_row(res, v, 2))
        return false;
    return !(str_is(v[0], "0") || str_is(v[0], "OFF")) ||
           !(str_is(v[1], "0") || str_is(v[1], "OFF"));
}

int db_takes_writes(struct db *db, struct server_fault *fault) {
    struct db_result *res = NULL;
    int rc = db_query(db, str_view(ASK_READ_ONLY), &res);
    bool tries = rc == 0 && is_set(res);
    db_result_free(res);
    res = NULL;
    if (tries)
        rc = db_query(db, str_view(TRY_TO_WRITE), &res);
    db_result_free(res);
    if (rc == -ENOTCONN) {
        set_fault(fault, &db->mysql, rc);
        return rc;
    }
    bool no_writes = tries && rc < 0; /* where the settings have other names, it does */
    fault_set(fault, no_writes ? SERVER_NO_WRITES : SERVER_FINE, no_writes ? db->error : NULL);
    return no_writes ? -EROFS : 0;
}

/* At one address, or at the socket. The first that takes no writes becomes the `reader`, -EROFS. */
static int open_writer(const struct db_url *url, const char *address, int timeout_ms,
                       struct db **out, struct db **reader, struct server_fault *fault) {
    struct db *db = NULL;
    int rc = open_at(url, address, timeout_ms, &db, fault);
    if (rc == 0)
        rc = db_takes_writes(db, fault);
    if (rc == 0)
        *out = db;
    else if (rc == -EROFS && !*reader)
        *reader = db;
    else
        db_close(db);
    return rc;
}

int db_open(const struct db_url *url, struct name_lookup *names, int timeout_ms, struct db **out,
            struct server_fault *fault) {
    struct addresses found = {.n = 1};
    struct server_fault now;
    struct db *reader = NULL;
    char why[RESOLVE_WHY_BYTES];
    bool named = !url->socket[0];
    int64_t deadline_ms = clock_mono_ms() + timeout_ms;
    int rc = named ? resolve_wait(url->host, deadline_ms, names, &found, why) : 0;
    fault_set(fault, rc < 0 ? SERVER_UNKNOWN : SERVER_FINE, rc < 0 ? why : NULL);
    if (rc < 0)
        return rc;
    rc = -EHOSTUNREACH;
    for (size_t i = 0; i < found.n && rc < 0; i++) {
        rc = open_writer(url, named ? found.at[i] : NULL, timeout_ms, out, &reader, &now);
        fault_worse(fault, &now);
    }
    if (rc == 0) {
        db_close(reader);
        fault_set(fault, SERVER_FINE, NULL);
    } else if (reader) {
        *out = reader;
        rc = 0;
    }
    return rc;
}

/* ---- on the loop ---- */

struct request {
    struct request *next;
    db_done_fn *done;
    void *ctx;
    size_t len;
    char sql[];
};

enum conn_state { CONN_DOWN, CONN_CONNECTING, CONN_IDLE, CONN_QUERY, CONN_STORE };

struct conn {
    struct db_pool *pool;
    MYSQL mysql;
    bool initialised;
    bool had;       /* a connection before */
    bool no_writes; /* the server takes none */
    bool asks;      /* whether it does */
    bool reached;   /* the server took the connection, and may still let us wait, or refuse us */
    enum conn_state state;
    struct request *request;
    struct loop_io io;
    struct loop_timer timer; /* next attempt, or the time-out of what is under way */
    int64_t sent_ms;         /* when that statement went out, */
    uint64_t heard;          /* and what the pool's count was then */
    int64_t backoff_ms;
    struct addresses addresses; /* of this round of attempts */
    size_t next;                /* of them, to be tried */
    struct server_fault round;  /* the worst that they came to */
    struct resolver_question question;
};

struct db_pool {
    struct loop *loop;
    struct db_url url;
    struct resolver *names; /* NULL: a unix socket */
    size_t size;
    struct request *first, **last;
    size_t waiting;
    uint64_t *reconnects;       /* NULL: nobody counts */
    uint64_t heard;             /* counts what the server answered */
    int64_t slow_ms;            /* when a slow statement was last said, 0: never */
    struct server_fault fault;  /* as it stands, and was logged */
    char error[DB_ERROR_BYTES]; /* of the last statement that failed */
    bool had;                   /* a connection */
    struct db_check look;       /* whether it takes writes */
    struct loop_timer timer;    /* for the next look; or, while it takes none, the next redial */
    size_t redial;              /* whose turn that is */
    struct loop_deferred pump;
    void (*settled)(void *ctx);
    void *settled_ctx;
    struct conn conns[POOL_SIZE_MAX];
};

static size_t n_up(const struct db_pool *pool) {
    size_t n = 0;
    for (size_t i = 0; i < pool->size; i++)
        n += pool->conns[i].state >= CONN_IDLE;
    return n;
}

static void conn_step(struct conn *c, int ready);

static void settle(struct db_pool *pool) {
    void (*settled)(void *) = pool->settled;
    pool->settled = NULL;
    if (settled)
        settled(pool->settled_ctx);
}

static void finish_request(struct conn *c, int rc, struct db_result *res) {
    struct request *request = c->request;
    c->request = NULL;
    if (request) {
        request->done(request->ctx, rc, res);
        free(request);
    }
}

static void fail_waiting(struct db_pool *pool, int rc) {
    struct request *r = pool->first;
    pool->first = NULL;
    pool->last = &pool->first;
    pool->waiting = 0;
    while (r) {
        struct request *next = r->next;
        r->done(r->ctx, rc, NULL);
        free(r);
        r = next;
    }
}

static void note(struct db_pool *pool, const struct server_fault *now) {
    if (fault_note(&pool->fault, now) && now->trouble != SERVER_FINE)
        fault_log(&pool->fault, "database", NULL);
}

/* Closing never waits: where the server may not read the farewell that the library sends, the
 * socket is shut first. */
static void conn_close(struct conn *c) {
    loop_io_set(c->pool->loop, &c->io, 0);
    if (!c->initialised)
        return;
    if (c->state != CONN_IDLE && mysql_get_socket(&c->mysql) >= 0)
        shutdown(mysql_get_socket(&c->mysql), SHUT_RDWR);
    mysql_close(&c->mysql);
    c->initialised = false;
}

/* The round is over without a connection, or one was lost: plans the next round. */
static void conn_rest(struct conn *c, int rc) {
    struct db_pool *pool = c->pool;
    c->addresses.n = 0;
    c->no_writes = false;
    if (!db_pool_up(pool))
        note(pool, &c->round);
    c->round.trouble = SERVER_FINE;
    loop_timer_set(pool->loop, &c->timer, loop_now_ms(pool->loop) + c->backoff_ms);
    c->backoff_ms = c->backoff_ms * 2 > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : c->backoff_ms * 2;
    finish_request(c, rc, NULL);
    if (!db_pool_up(pool))
        fail_waiting(pool, -ENOTCONN);
    settle(pool);
}

/* Drops the connection; one that could not be made at this address is tried at the next. */
static void conn_down(struct conn *c, int rc) {
    struct server_fault now;
    bool made = c->state != CONN_CONNECTING;
    keep_words(c->pool->error, &c->mysql, rc);
    set_fault(&now, &c->mysql, rc);
    fault_worse(&c->round, &now);
    c->state = CONN_DOWN;
    conn_close(c);
    if (!made && ++c->next < c->addresses.n)
        loop_timer_set(c->pool->loop, &c->timer, loop_now_ms(c->pool->loop));
    else
        conn_rest(c, rc);
}

/* Closes a connection that serves nobody, to make it anew at once. */
static void conn_redial(struct conn *c) {
    conn_close(c);
    c->state = CONN_DOWN;
    c->addresses.n = 0;
    c->no_writes = false;
    loop_timer_set(c->pool->loop, &c->timer, loop_now_ms(c->pool->loop));
}

/* Waits for what Connector/C asked for. */
static void conn_wait(struct conn *c, int status) {
    uint32_t events = (uint32_t)to_events(status); /* EPOLLIN is POLLIN, and so on: epoll_ctl(2) */
    c->io.fd = mysql_get_socket(&c->mysql);
    int rc = loop_io_set(c->pool->loop, &c->io, events);
    if (rc < 0)
        conn_down(c, rc);
}

/* Connects to the next address of the round, or to the socket. */
static void conn_connect(struct conn *c) {
    MYSQL *ret;
    struct db_url *url = &c->pool->url;
    const char *address = c->addresses.n ? c->addresses.at[c->next] : NULL;
    mysql_init(&c->mysql);
    c->initialised = true;
    mysql_options(&c->mysql, MYSQL_OPT_NONBLOCK, 0);
    set_options(&c->mysql);
    c->state = CONN_CONNECTING;
    c->reached = c->asks = false;
    loop_timer_set(c->pool->loop, &c->timer, loop_now_ms(c->pool->loop) + REACH_MS);
    int status = mysql_real_connect_start(&ret, &c->mysql, address, url->user, url->password,
                                          url->name, (unsigned)url->port, or_null(url->socket), 0);
    if (status)
        conn_wait(c, status);
    else if (ret)
        conn_step(c, 0);
    else
        conn_down(c, -ENOTCONN);
}

static void on_resolved(void *p, const struct addresses *found, const char *why) {
    struct conn *c = p;
    if (!found) {
        fault_set(&c->round, SERVER_UNKNOWN, why);
        conn_rest(c, -EHOSTUNREACH);
        return;
    }
    c->addresses = *found;
    c->next = 0;
    conn_connect(c);
}

/* The next address of this round, or a new round, for which the name is looked up anew. */
static void conn_attempt(struct conn *c) {
    if (!c->pool->names || c->next < c->addresses.n)
        conn_connect(c);
    else if (!c->question.at)
        resolver_ask(c->pool->names, &c->question);
}

static void conn_idle(struct conn *c) {
    c->pool->heard++;
    c->state = CONN_IDLE;
    c->asks = false;
    loop_timer_cancel(c->pool->loop, &c->timer);
    conn_wait(c, MYSQL_WAIT_READ);
    loop_defer(c->pool->loop, &c->pool->pump);
}

/* The rows are here: hand them over. */
static void conn_result(struct conn *c, MYSQL_RES *rows) {
    struct db_result res = {rows, 0};
    if (!rows && mysql_field_count(&c->mysql) > 0) {
        conn_down(c, error_rc(&c->mysql));
        return;
    }
    res.changed = mysql_affected_rows(&c->mysql);
    conn_idle(c);
    finish_request(c, 0, &res);
    if (rows)
        mysql_free_result(rows);
}

static bool is_no_writes(MYSQL *m) {
    unsigned code = mysql_errno(m);
    return code == ER_READ_ONLY_MODE ||
           (code == ER_OPTION_PREVENTS && strstr(mysql_error(m), "read"));
}

static void plan_look(struct db_pool *pool) {
    bool no_writes = pool->fault.trouble == SERVER_NO_WRITES;
    loop_timer_set(pool->loop, &pool->timer,
                   loop_now_ms(pool->loop) + (no_writes ? REDIAL_MS : LOOK_MS));
}

/* The server behind all connections takes no writes any more: another one is looked for. */
static void lost_writes(struct db_pool *pool, const char *why) {
    struct server_fault now;
    if (pool->fault.trouble == SERVER_NO_WRITES)
        return;
    for (size_t i = 0; i < pool->size; i++)
        pool->conns[i].no_writes = pool->conns[i].state >= CONN_IDLE;
    fault_set(&now, SERVER_NO_WRITES, why);
    note(pool, &now);
    plan_look(pool);
}

/* What a user may do in a database counts from the moment when a connection chose it: one that was
 * granted since is seen by a new connection only (GRANT, "database privileges"). */
static bool is_about_rights(MYSQL *m) {
    unsigned code = mysql_errno(m);
    return code == 1044 || code == 1142 || code == 1143;
}

static void conn_queried(struct conn *c, int err) {
    if (err) {
        int rc = error_rc(&c->mysql);
        if (rc == -ENOTCONN) {
            conn_down(c, rc);
            return;
        }
        keep_words(c->pool->error, &c->mysql, rc);
        log_event(LOG_DEBUG, "database error", LOG_STR("error", c->pool->error));
        if (!c->asks && is_no_writes(&c->mysql))
            lost_writes(c->pool, mysql_error(&c->mysql));
        bool renews = !c->asks && is_about_rights(&c->mysql) && n_up(c->pool) > 1;
        conn_idle(c);
        finish_request(c, rc, NULL);
        if (renews)
            conn_down(c, rc);
        return;
    }
    MYSQL_RES *rows;
    c->state = CONN_STORE;
    int status = mysql_store_result_start(&rows, &c->mysql);
    if (status)
        conn_wait(c, status);
    else
        conn_result(c, rows);
}

/* ---- whether the server takes writes ---- */

/* This connection's server takes writes. The others may be another's, and are made anew. */
static void conn_good(struct conn *c) {
    struct db_pool *pool = c->pool;
    const struct server_fault fine = {.trouble = SERVER_FINE};
    if (pool->fault.trouble != SERVER_FINE || !pool->had)
        log_event(LOG_INFO, "database is connected", LOG_STR("database", pool->url.name));
    pool->had = true;
    c->no_writes = false;
    c->round = fine;
    c->addresses.n = 0; /* the next round begins with the name */
    for (size_t i = 0; pool->fault.trouble == SERVER_NO_WRITES && i < pool->size; i++)
        if (pool->conns[i].no_writes && pool->conns[i].state == CONN_IDLE)
            conn_redial(&pool->conns[i]);
    note(pool, &fine);
    plan_look(pool);
    settle(pool);
}

/* It does not. Another address may be another server's; the last one serves those who read. */
static void conn_no_writes(struct conn *c, const char *why) {
    struct server_fault now;
    fault_set(&now, SERVER_NO_WRITES, why);
    fault_worse(&c->round, &now);
    if (++c->next < c->addresses.n) {
        conn_close(c);
        c->state = CONN_DOWN;
        loop_timer_set(c->pool->loop, &c->timer, loop_now_ms(c->pool->loop));
        return;
    }
    c->addresses.n = 0;
    c->no_writes = true;
    if (c->pool->fault.trouble != SERVER_FINE || !c->pool->had)
        note(c->pool, &now);
    c->pool->had = true;
    plan_look(c->pool);
    settle(c->pool);
}

static void conn_ask(struct conn *c, const char *sql, db_done_fn *done);

static void on_conn_tried(void *p, int rc, struct db_result *res) {
    struct conn *c = p;
    (void)res;
    if (c->state != CONN_IDLE)
        return; /* it is gone, and tried again */
    if (rc < 0)
        conn_no_writes(c, mysql_error(&c->mysql));
    else
        conn_good(c);
}

static void on_conn_asked(void *p, int rc, struct db_result *res) {
    struct conn *c = p;
    if (c->state != CONN_IDLE)
        return;
    if (rc == 0 && is_set(res))
        conn_ask(c, TRY_TO_WRITE, on_conn_tried);
    else
        conn_good(c); /* also where the settings have other names */
}

/* A new connection: it is asked before it serves. */
static void conn_connected(struct conn *c) {
    struct db_pool *pool = c->pool;
    pool->heard++;
    if (pool->reconnects && c->had && pool->fault.trouble != SERVER_NO_WRITES)
        __atomic_fetch_add(pool->reconnects, 1, __ATOMIC_RELAXED); /* shared with others */
    c->had = true;
    c->state = CONN_IDLE;
    c->backoff_ms = BACKOFF_FIRST_MS;
    conn_ask(c, ASK_READ_ONLY, on_conn_asked);
}

static void check_over(struct db_check *check, int rc) {
    check->done(check->ctx, rc, NULL);
}

static void on_tried(void *p, int rc, struct db_result *res) {
    struct db_check *check = p;
    (void)res; /* what it refuses is noted with every statement */
    check_over(check, rc == -ENOTCONN || rc == -ETIMEDOUT ? rc : 0);
}

static void on_asked(void *p, int rc, struct db_result *res) {
    struct db_check *check = p;
    bool tries = rc == 0 && is_set(res) && check->pool->fault.trouble == SERVER_FINE;
    if (tries)
        rc = db_pool_query(check->pool, str_view(TRY_TO_WRITE), on_tried, check);
    if (!tries || rc < 0)
        check_over(check, rc == -ENOTCONN || rc == -ETIMEDOUT ? rc : 0);
}

int db_pool_check(struct db_pool *pool, struct db_check *check) {
    check->pool = pool;
    return db_pool_query(pool, str_view(ASK_READ_ONLY), on_asked, check);
}

static void on_looked(void *p, int rc, struct db_result *res) {
    struct db_pool *pool = p;
    (void)rc;
    (void)res;
    plan_look(pool);
}

/* One after the other, so that those who only read are served all the time. */
static void redial_next(struct db_pool *pool) {
    for (size_t i = 0; i < pool->size; i++) {
        struct conn *c = &pool->conns[pool->redial++ % pool->size];
        if (c->no_writes && c->state == CONN_IDLE) {
            conn_redial(c);
            return;
        }
    }
}

static void on_look(void *p) {
    struct db_pool *pool = p;
    bool fine = pool->fault.trouble == SERVER_FINE;
    redial_next(pool);
    if (!fine || db_pool_check(pool, &pool->look) < 0)
        plan_look(pool);
}

/* One step of what is under way; `ready` is what the socket is ready for. */
static void conn_step(struct conn *c, int ready) {
    int status = 0;
    int err;
    MYSQL *ret = NULL;
    MYSQL_RES *rows;
    switch (c->state) {
    case CONN_DOWN:
        break;
    case CONN_CONNECTING:
        if (ready) {
            /* it may close its descriptor in there, and open another with the same number */
            loop_io_set(c->pool->loop, &c->io, 0);
            if (!c->reached)
                loop_timer_set(c->pool->loop, &c->timer, loop_now_ms(c->pool->loop) + GREET_MS);
            c->reached = true;
            status = mysql_real_connect_cont(&ret, &c->mysql, ready);
            if (status)
                break;
            if (!ret) {
                conn_down(c, -ENOTCONN);
                return;
            }
        }
        conn_connected(c);
        return;
    case CONN_IDLE: /* the server closed, or said why it will */
        conn_down(c, -ENOTCONN);
        return;
    case CONN_QUERY:
        status = mysql_real_query_cont(&err, &c->mysql, ready);
        if (!status) {
            conn_queried(c, err);
            return;
        }
        break;
    case CONN_STORE:
        status = mysql_store_result_cont(&rows, &c->mysql, ready);
        if (!status) {
            conn_result(c, rows);
            return;
        }
        break;
    }
    if (status)
        conn_wait(c, status);
}

static void on_ready(void *p, uint32_t events) {
    conn_step(p, to_ready((int)events));
}

static void on_probed(void *ctx, int rc, struct db_result *res) {
    (void)ctx; /* that there is an answer is all, and counted */
    (void)rc;
    (void)res;
}

/* A statement without an answer: one that waits for a lock, or is too much to do, fails alone; when
 * the server has answered nothing at all since, the others would wait as long for nothing. */
static void conn_waits(struct conn *c) {
    struct db_pool *pool = c->pool;
    int64_t now_ms = loop_now_ms(pool->loop), end_ms = c->sent_ms + QUERY_TIMEOUT_MS;
    bool silent = pool->heard == c->heard;
    if (now_ms < end_ms) {
        if (silent)
            (void)db_pool_query(pool, str_view("DO 1"), on_probed, NULL);
        loop_timer_set(pool->loop, &c->timer, end_ms);
        return;
    }
    for (size_t i = 0; silent && i < pool->size; i++)
        if (pool->conns[i].state >= CONN_IDLE)
            conn_down(&pool->conns[i], -ETIMEDOUT);
    if (silent)
        return;
    if (pool->slow_ms == 0 || now_ms - pool->slow_ms >= SLOW_SAID_MS) {
        pool->slow_ms = now_ms;
        log_event(LOG_WARN, "a statement takes the database too long and is given up");
    }
    conn_down(c, -ETIMEDOUT);
}

static void on_timer(void *p) {
    struct conn *c = p;
    if (c->state == CONN_DOWN)
        conn_attempt(c);
    else if (c->state == CONN_CONNECTING)
        conn_down(c, -ETIMEDOUT);
    else if (c->request)
        conn_waits(c);
}

static void conn_query(struct conn *c, struct request *request) {
    int err;
    c->request = request;
    c->state = CONN_QUERY;
    c->sent_ms = loop_now_ms(c->pool->loop);
    c->heard = c->pool->heard;
    loop_timer_set(c->pool->loop, &c->timer, c->sent_ms + PROBE_MS);
    int status = mysql_real_query_start(&err, &c->mysql, request->sql, request->len);
    if (status)
        conn_wait(c, status);
    else
        conn_queried(c, err);
}

/* A question of our own, on this connection. Without memory it is taken for answered well. */
static void conn_ask(struct conn *c, const char *sql, db_done_fn *done) {
    size_t len = strlen(sql);
    struct request *r = malloc(sizeof *r + len);
    if (!r) {
        conn_good(c);
        conn_idle(c);
        return;
    }
    *r = (struct request){.done = done, .ctx = c, .len = len};
    memcpy(r->sql, sql, len);
    c->asks = true;
    conn_query(c, r);
}

/* Gives waiting requests to idle connections. Runs at the end of a turn, so callers never see their
 * callback before their own call returned. */
static void on_pump(void *p) {
    struct db_pool *pool = p;
    for (size_t i = 0; i < pool->size && pool->first; i++) {
        if (pool->conns[i].state != CONN_IDLE ||
            (pool->conns[i].no_writes && pool->fault.trouble == SERVER_FINE))
            continue; /* a server that takes writes is there: this one is left */
        struct request *r = pool->first;
        pool->first = r->next;
        if (!pool->first)
            pool->last = &pool->first;
        pool->waiting--;
        conn_query(&pool->conns[i], r);
    }
}

struct db_pool *db_pool_new(struct loop *loop, const struct db_url *url, size_t size,
                            void (*settled)(void *ctx), void *ctx) {
    struct db_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return NULL;
    pool->loop = loop;
    pool->url = *url;
    pool->size = size > POOL_SIZE_MAX ? POOL_SIZE_MAX : size;
    pool->last = &pool->first;
    pool->pump = (struct loop_deferred){.call = on_pump, .ctx = pool};
    pool->settled = settled;
    pool->settled_ctx = ctx;
    pool->look = (struct db_check){.done = on_looked, .ctx = pool};
    pool->timer = (struct loop_timer){.fire = on_look, .ctx = pool};
    if (!url->socket[0] && !(pool->names = resolver_new(loop, url->host))) {
        free(pool);
        return NULL;
    }
    for (size_t i = 0; i < pool->size; i++) {
        struct conn *c = &pool->conns[i];
        *c = (struct conn){.pool = pool, .backoff_ms = BACKOFF_FIRST_MS};
        c->io = (struct loop_io){.fd = -1, .ready = on_ready, .ctx = c};
        c->timer = (struct loop_timer){.fire = on_timer, .ctx = c};
        c->question = (struct resolver_question){.done = on_resolved, .ctx = c};
        loop_timer_set(loop, &c->timer, loop_now_ms(loop)); /* the first attempt, from the loop */
    }
    return pool;
}

void db_pool_free(struct db_pool *pool) {
    if (!pool)
        return;
    loop_timer_cancel(pool->loop, &pool->timer);
    for (size_t i = 0; i < pool->size; i++) {
        struct conn *c = &pool->conns[i];
        loop_timer_cancel(pool->loop, &c->timer);
        resolver_forget(&c->question);
        conn_close(c);
        free(c->request);
    }
    while (pool->first) {
        struct request *next = pool->first->next;
        free(pool->first);
        pool->first = next;
    }
    resolver_free(pool->names);
    free(pool);
}

void db_pool_count(struct db_pool *pool, uint64_t *reconnects) {
    pool->reconnects = reconnects;
}

const struct server_fault *db_pool_fault(const struct db_pool *pool) {
    return &pool->fault;
}

const char *db_pool_error(const struct db_pool *pool) {
    return pool->error;
}

bool db_pool_up(const struct db_pool *pool) {
    return n_up(pool) > 0;
}

int db_pool_query(struct db_pool *pool, struct str_view sql, db_done_fn *done, void *ctx) {
    if (!db_pool_up(pool))
        return -ENOTCONN;
    if (pool->waiting >= POOL_WAITING_MAX)
        return -ENOBUFS;
    struct request *r = malloc(sizeof *r + sql.len);
    if (!r)
        return -ENOMEM;
    *r = (struct request){.done = done, .ctx = ctx, .len = sql.len};
    memcpy(r->sql, sql.ptr, sql.len);
    *pool->last = r;
    pool->last = &r->next;
    pool->waiting++;
    loop_defer(pool->loop, &pool->pump);
    return 0;
}
