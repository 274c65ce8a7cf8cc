/* What people see: replies of Redis in, JSON out. The replies are written as JSON here. */
#include "unit.h"

#include <errno.h>
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "job/report.h"

enum { NAME_SHOWN_BYTES = 300 };

/* ---- replies ---- */

static redis_reply *reply_of(yyjson_val *v) {
    redis_reply *r = calloc(1, sizeof *r);
    size_t i, max;
    yyjson_val *element;
    assert_non_null(r);
    r->type = REDIS_REPLY_NIL;
    if (yyjson_is_int(v)) {
        r->type = REDIS_REPLY_INTEGER;
        r->integer = yyjson_get_sint(v);
    } else if (yyjson_is_str(v)) {
        r->type = REDIS_REPLY_STRING;
        r->len = yyjson_get_len(v);
        r->str = malloc(r->len + 1);
        assert_non_null(r->str);
        memcpy(r->str, yyjson_get_str(v), r->len + 1);
    } else if (yyjson_is_arr(v)) {
        r->type = REDIS_REPLY_ARRAY;
        r->elements = yyjson_arr_size(v);
        r->element = calloc(r->elements ? r->elements : 1, sizeof *r->element);
        assert_non_null(r->element);
        yyjson_arr_foreach(v, i, max, element) {
            r->element[i] = reply_of(element);
        }
    }
    return r;
}

static redis_reply *reply(const char *json) {
    yyjson_doc *doc = yyjson_read(json, strlen(json), YYJSON_READ_ALLOW_INVALID_UNICODE);
    assert_non_null(doc);
    redis_reply *r = reply_of(yyjson_doc_get_root(doc));
    yyjson_doc_free(doc);
    return r;
}

static struct ladder ladder;

static int setup(void **state) {
    (void)state;
    ladder_init(&ladder);
    assert_int_equal(ladder_add(&ladder, str_view("bronze"), str_view("/b"), 0), 0);
    assert_int_equal(ladder_add(&ladder, str_view("gold"), str_view("/g \"1\""), 2000), 0);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    ladder_release(&ladder);
    return 0;
}

/* The object as text, which is valid JSON; to be freed. */
static char *text_of(struct buf *b) {
    assert_false(b->failed);
    yyjson_doc *doc = yyjson_read(b->data, b->len, 0);
    assert_non_null(doc);
    yyjson_doc_free(doc);
    char *text = strndup(b->data, b->len);
    buf_release(b);
    assert_non_null(text);
    return text;
}

static char *status_of(const char *json, const uint64_t *files) {
    redis_reply *r = json ? reply(json) : NULL;
    struct buf b;
    buf_init(&b, REPORT_BYTES);
    report_status(&b, &(struct status_facts){
                          .watched = r, .db_ok = json != NULL, .ladder = &ladder, .files = files});
    redis_reply_free(r);
    return text_of(&b);
}

static void assert_has(const char *text, const char *part) {
    if (!strstr(text, part))
        fail_msg("%s\nis not in\n%s", part, text);
}

/* A status reply in which one place says something: the others are empty. */
enum place { MOVES = 9, WORKERS, GATES, STATS, RATES, USE, EVENTS, TROUBLE = 17, PLACES };

static void assert_shows(enum place place, const char *json, const char *part) {
    char *all = malloc(strlen(json) + 256);
    assert_non_null(all);
    strcpy(all, "[\"1000000\", 0, 0, 0, 0, 0, 0, 0, \"0\"");
    for (int i = MOVES; i < PLACES; i++) {
        strcat(all, ", ");
        strcat(all, i == (int)place ? json : "[]");
    }
    strcat(all, "]");
    char *text = status_of(all, NULL);
    assert_has(text, part);
    free(text);
    free(all);
}

/* ---- status ---- */

static void redis_away(void **state) {
    (void)state;
    char *text = status_of(NULL, NULL);
    assert_string_equal(
        text,
        "{\"redis\": \"down\", \"db\": \"down\", \"amiss\": [], \"levels\": ["
        "{\"level\": \"gold\", \"path\": \"/g \\\"1\\\"\", \"min_count\": 2000, \"files\": null, "
        "\"used_bytes\": null, \"free_bytes\": null, \"paused\": false, \"full\": false, "
        "\"trouble\": []}, "
        "{\"level\": \"bronze\", \"path\": \"/b\", \"min_count\": 0, \"files\": null, "
        "\"used_bytes\": null, \"free_bytes\": null, \"paused\": false, \"full\": false, "
        "\"trouble\": []}]}");
    free(text);
}

static void all_of_a_status(void **state) {
    (void)state;
    uint64_t files[] = {7, UINT64_MAX};
    char *text = status_of(
        "[\"900001\", 1, 2, 3, 4, 5, 6, -1, \"250\","
        "[[\"7\", \"50 100 25 900000 905000 host.1.a\", \"bronze\", \"gold\", \"a/b.mp4\"]],"
        "[\"host.1.a\", \"899001 990000\"], [[\"gold\", \"0\", 5]],"
        "[\"moves\", \"12\", \"bytes\", \"18446744073709551615\", \"retried\", \"x\"],"
        "[], [\"gold\", \"10 20\", \"gone\", \"1 2\"],"
        "[[\"899000-3\", [\"cid\", \"7\", \"what\", \"moves\"]]], []]",
        files);
    assert_has(
        text,
        "{\"redis\": \"ok\", \"db\": \"ok\", \"amiss\": [], \"levels\": [{\"level\": \"gold\"");
    assert_has(text, "\"min_count\": 2000, \"files\": 18446744073709551615, \"used_bytes\": 10, "
                     "\"free_bytes\": 20, \"paused\": true, \"full\": false, \"trouble\": []}");
    assert_has(text, "\"files\": 7, \"used_bytes\": null, \"free_bytes\": null, \"paused\": false, "
                     "\"full\": false, \"trouble\": []}]");
    assert_has(text, "\"time_ms\": 900001, \"jobs\": {\"ready\": 3, \"moving\": 1, \"later\": 4, "
                     "\"paused\": 5, \"conflict\": 0, \"dead\": 6, \"oldest_ready_ms\": 250}");
    assert_has(text, "\"totals\": {\"moves\": 12, \"bytes\": 18446744073709551615, \"took_ms\": 0, "
                     "\"retried\": 0}, \"alive\": 2, ");
    assert_has(text, "\"workers\": [{\"worker_id\": \"host.1.a\", \"host\": \"host\", "
                     "\"alive_ms\": 1000}]");
    assert_has(text,
               "\"moves\": [{\"cid\": \"7\", \"filename\": \"a/b.mp4\", \"from\": \"bronze\", "
               "\"to\": \"gold\", \"done_bytes\": 50, \"total_bytes\": 100, "
               "\"bytes_per_s\": 25, \"running_ms\": 1, \"left_ms\": 2000, "
               "\"worker_id\": \"host.1.a\"}]");
    assert_has(text, "\"errors\": [], \"events\": [{\"time_ms\": 899000, \"cid\": \"7\", "
                     "\"what\": \"moves\", \"words\": \"moves\"}]}");
    free(text);
}

/* Gates of a status, for all who wait behind them. */
static void closed_gates(void **state) {
    (void)state;
    static const struct {
        const char *gate, *text;
    } gates[] = {
        {"\"@all\", \"0\", 2", "all moves are paused until they are resumed"},
        {"\"@all\", \"5000\", 2", "all moves are paused"},
        {"\"@window\", \"5000\", 2", "outside the window"},
        {"\"@busy:gold\", \"5000\", 2", "as many moves into gold as level-jobs allows"},
        {"\"gold\", \"0\", 2", "gold is paused until it is resumed"},
        {"\"gold\", \"5000\", 2", "gold is paused"},
        {"\"g\\\"\\n\", \"5000\", 2", "g\\\"\\n is paused"},
        {"\"@route\\ngold\\nbronze\\n\", \"0\", 2", "no worker reaches gold and bronze"},
        {"\"@route\\ngold\\n\", \"0\", 2", "no worker reaches gold"},
        {"\"@route\\n\", \"0\", 2", "no worker reaches "},
    };
    char json[128], part[128];
    for (size_t i = 0; i < sizeof gates / sizeof *gates; i++) {
        snprintf(json, sizeof json, "[[%s]]", gates[i].gate);
        snprintf(part, sizeof part, "\"text\": \"%s\", \"jobs\": 2, \"until_ms\": %s}]",
                 gates[i].text, strstr(gates[i].gate, "\"0\"") ? "null" : "5000");
        assert_shows(GATES, json, part);
    }
    assert_shows(GATES, "[[\"gold\", \"0\", -3], []]",
                 "\"jobs\": 0, \"until_ms\": null}, {\"gate\": \"\", \"text\": \" is paused\"");
}

/* What hosts say of levels that they cannot use; of a level that there is not, nothing. */
static void levels_in_trouble(void **state) {
    (void)state;
    static const char troubles[] =
        "[[\"gold\", \"a\", \"988000\", \"it does not answer\"], [\"gol\", \"a\", \"1\", \"x\"],"
        "[\"bronze\", \"a\", \"1000000\", \"lacks its marker\"],"
        "[\"gold\", \"b\", \"2000000\", \"no\"], [\"gold\"], []]";
    assert_shows(TROUBLE, troubles,
                 "\"trouble\": [\"it does not answer (on a, for 12 s)\", \"no (on b, for 0 ms)\", "
                 "\" (on , for 16 min)\"]");
    assert_shows(TROUBLE, troubles, "\"trouble\": [\"lacks its marker (on a, for 0 ms)\"]");
}

/* A route of names that are longer than a sentence may be ends, and is still text. */
static void a_long_route(void **state) {
    (void)state;
    char json[8192] = "[[\"@route\\n";
    for (int i = 0; i < 1200; i++)
        strcat(json, i % 100 == 99 ? "\\n" : "\xc3\xa9");
    strcat(json, "\\n\", \"0\", 1]]");
    assert_shows(GATES, json, "\"text\": \"no worker reaches \xc3\xa9\xc3\xa9");
}

static void progress(void **state) {
    (void)state;
    static const struct {
        const char *stored, *shown;
    } moves[] = {
        {"0 100 0 1000000 9 w", "\"bytes_per_s\": 0, \"running_ms\": 0, \"left_ms\": null"},
        {"100 100 5 1000001 9 w", "\"running_ms\": 0, \"left_ms\": 0"},
        {"101 100 5 999000 9 w", "\"running_ms\": 1000, \"left_ms\": null"},
        {"", "\"done_bytes\": 0, \"total_bytes\": 0, \"bytes_per_s\": 0, \"running_ms\": 1000000, "
             "\"left_ms\": null, \"worker_id\": \"\""},
        {"x 18446744073709551616 -1", "\"done_bytes\": 0, \"total_bytes\": 0, \"bytes_per_s\": 0"},
        {"1 2 3 4 5 a b", "\"worker_id\": \"a b\""},
    };
    char json[128];
    for (size_t i = 0; i < sizeof moves / sizeof *moves; i++) {
        snprintf(json, sizeof json, "[[\"7\", \"%s\", \"b\", \"g\", \"f\"]]", moves[i].stored);
        assert_shows(MOVES, json, moves[i].shown);
    }
}

/* Of a long name its end is shown, beginning with a whole character. */
static void long_names(void **state) {
    (void)state;
    char name[1024], json[1200], part[1100];
    for (size_t n = NAME_SHOWN_BYTES - 1; n <= NAME_SHOWN_BYTES + 3; n++) {
        memset(name, 'x', n);
        name[n] = '\0';
        memcpy(name, "\xe2\x82\xac", 3);
        size_t cut = n <= NAME_SHOWN_BYTES ? 0 : 3; /* a part of the character goes with it whole */
        snprintf(json, sizeof json, "[[\"7\", \"\", \"b\", \"g\", \"%s\"]]", name);
        snprintf(part, sizeof part, "\"filename\": \"%s\"", name + cut);
        assert_shows(MOVES, json, part);
    }
}

static void workers(void **state) {
    (void)state;
    assert_shows(WORKERS, "[\"nodot\", \"2000000 1\", \".1.a\", \"\", \"odd\"]",
                 "\"workers\": [{\"worker_id\": \"nodot\", \"host\": \"nodot\", \"alive_ms\": 0}, "
                 "{\"worker_id\": \".1.a\", \"host\": \"\", \"alive_ms\": 1000000}]");
}

/* Slot 100 fills at 1000 s: the last of the ring; 11 is the oldest, 10 and 101 are none of it. */
static void rates(void **state) {
    (void)state;
    assert_shows(RATES,
                 "[\"10\", \"100 1 2\", \"11\", \"11 3 4\", \"x\", \"10 5 6\", \"y\", \"101 7 8\"]",
                 "\"rates\": {\"slot_ms\": 10000, \"filled_ms\": 0, \"moves\": [3, 0, ");
    assert_shows(RATES, "[\"10\", \"100 1 2\", \"11\", \"11 3 4\"]", ", 0, 1], \"bytes\": [4, 0, ");
    assert_shows(RATES, "[\"10\", \"100 1 2\"]", ", 0, 2]}");
    assert_shows(RATES, "[\"10\", \"101 1 2\", \"x\", \"10 1 2\", \"y\", \"\"]",
                 "\"moves\": [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, "
                 "0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, "
                 "0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, "
                 "0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]");
}

/* Names and values of events are text of anybody. */
static void events(void **state) {
    (void)state;
    assert_shows(
        EVENTS, "[[\"12-0\", [\"wh\\\"at\", \"a\\nb\\u0001\", \"odd\"]], [\"nodash\", []], []]",
        "\"events\": [{\"time_ms\": 12, \"wh\\\"at\": \"a\\nb\\u0001\"}, {\"time_ms\": 0}, "
        "{\"time_ms\": 0}]");
    assert_shows(EVENTS, "[[\"1-0\", [\"error\", \"\xff\"]]]", "\"error\": \"\\u00ff\"");
}

/* A reply that is not what it should be is no reason to fall. */
static void broken_replies(void **state) {
    (void)state;
    static const char *const broken[] = {
        "[]",
        "null",
        "3",
        "\"text\"",
        "[[], [], []]",
        "[1, \"x\", null, [], \"1\", 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]",
        "[null, null, null, null, null, null, null, null, null, [null, [], [null]], [null, null],"
        " [null, [null]], [null, null], [null, null], [null, null], [null, [null, null]], null]"};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        char *text = status_of(broken[i], NULL);
        assert_has(text, "\"jobs\": {\"ready\": 0, ");
        free(text);
    }
}

/* A key of another type, a value that is no job, a right: a sentence each, the first that stops. */
static void amiss(void **state) {
    (void)state;
    static const char *const sentences[] = {
        "the key tierd:rates in redis holds a string where tierd keeps a hash: rename or delete it",
        "the key 7 in redis holds something that is no job: rename or delete it",
        "redis refuses 'SCAN 0': NOPERM",
        "the key tierd:due in redis holds a list where tierd keeps "
        "a sorted set: rename or delete it"};
    redis_reply *r = reply("[[\"watch\", \"tierd:rates\", \"string\", \"hash\"],"
                           "[\"watch\", \"7\", \"string\", \"job\"],"
                           "[\"stops\", \"SCAN 0\", \"NOPERM\"],"
                           "[\"stops\", \"tierd:due\", \"list\", \"zset\"]]");
    struct keys_amiss found;
    keys_read(r, &found);
    redis_reply_free(r);
    assert_int_equal(found.n, 4);
    for (size_t i = 0; i < 4; i++)
        assert_string_equal(found.each[i].text, sentences[i]);
    assert_ptr_equal(keys_stopping(&found), found.each[2].text);
    struct buf b;
    buf_init(&b, REPORT_BYTES);
    report_status(&b, &(struct status_facts){.ladder = &ladder, .amiss = &found});
    char *text = text_of(&b);
    assert_has(text, "\"amiss\": [\"the key tierd:rates in");
    assert_has(text, "\"redis refuses 'SCAN 0': NOPERM\", \"the key tierd:due in");
    free(text);
}

/* What is told, and told of its end. */
static void count_told(void *ctx, const char *text, bool stops, bool mended) {
    int *n = ctx;
    (void)text;
    (void)stops;
    n[mended]++;
}

static void amiss_is_told_once(void **state) {
    (void)state;
    struct keys_amiss told = {0}, now = {0};
    int n[2] = {0};
    keys_only(&now, "a");
    for (int i = 0; i < 3; i++)
        keys_tell(&told, &now, count_told, n);
    assert_int_equal(n[0], 1);
    keys_only(&now, "b");
    keys_tell(&told, &now, count_told, n);
    assert_int_equal(n[0], 2);
    assert_int_equal(n[1], 1);
    now.n = 0;
    keys_tell(&told, &now, count_told, n);
    keys_tell(&told, &now, count_told, n);
    assert_int_equal(n[0], 2);
    assert_int_equal(n[1], 2);
    assert_null(keys_stopping(&told));
}

/* Whatever does not fit is a failure, wherever it stops. */
static void too_large(void **state) {
    (void)state;
    redis_reply *r =
        reply("[\"1\", 1, 1, 1, 1, 1, 1, 1, \"1\", [[\"7\", \"1 2 3 4 5 w\", \"b\", \"g\", \"f\"]],"
              "[\"w\", \"1 2\"], [[\"@all\", \"0\", 1]], [], [], [],"
              "[[\"1-0\", [\"cid\", \"7\", \"what\", \"moves\"]]], []]");
    struct keys_amiss odd;
    keys_only(&odd, "ERR a \"right\"");
    struct status_facts f = {.watched = r, .db_ok = true, .ladder = &ladder, .amiss = &odd};
    struct buf b;
    buf_init(&b, REPORT_BYTES);
    report_status(&b, &f);
    assert_false(b.failed);
    size_t len = b.len;
    buf_release(&b);
    for (size_t max = 0; max <= len; max++) {
        buf_init(&b, max);
        report_status(&b, &f);
        assert_true(b.failed == (max < len));
        assert_true(b.len <= max);
        buf_release(&b);
    }
    redis_reply_free(r);
}

static void numbers(void **state) {
    (void)state;
    redis_reply *r =
        reply("[\"1\", 1, 2, 3, 4, 5, 6, 7, \"8\", [], [], [], [\"le:10\", \"9\", \"ms\", "
              "\"10\", \"dead\", \"11\", \"conflict\", \"18446744073709551616\", \"odd\"]]");
    struct status_numbers n;
    report_numbers(r, &n);
    assert_int_equal(n.running, 1);
    assert_int_equal(n.alive, 2);
    assert_int_equal(n.age_ms, 8);
    assert_int_equal(n.took_ms, 10);
    assert_int_equal(n.deaths, 11);
    assert_int_equal(n.conflicts, 0);
    assert_int_equal(report_stat(r, "le:10"), 9);
    assert_int_equal(report_stat(r, "odd"), 0);
    assert_int_equal(report_stat(NULL, "le:10"), 0);
    redis_reply_free(r);
}

static void use(void **state) {
    (void)state;
    struct level_use u[2];
    report_use(NULL, &ladder, u);
    assert_false(u[0].known || u[1].known);
    redis_reply *r = reply("[\"bronze\", \"1\", \"gold\", \"\"]");
    report_use(r, &ladder, u);
    assert_true(u[0].known && u[0].used_bytes == 1 && u[0].free_bytes == 0);
    assert_false(u[1].known);
    redis_reply_free(r);
}

/* ---- one content ---- */

#define JSON(status, more)                                                                         \
    "\"{\\\"cid\\\": \\\"7\\\", \\\"count\\\": \\\"2500\\\", \\\"target\\\": \\\"gold\\\", "       \
    "\\\"db_level\\\": \\\"bronze\\\", \\\"filename\\\": \\\"g.mp4\\\", "                          \
    "\\\"worker_id\\\": null, \\\"status\\\": \\\"" status "\\\"" more "}\""
#define UPDATE JSON("update", "")
#define FAILED ", \\\"error\\\": \\\"x \\\\\\\"y\\\\\\\"\\\""

static const struct content at_bronze = {
    .cid = 7, .level = "bronze", .filename = "g.mp4", .age_ms = -1};

static char *job_of(const char *json, const struct content *row) {
    struct policy policy;
    const char *option;
    assert_int_equal(policy_init(&policy, NULL, 0, "90%", &option), 0);
    redis_reply *r = reply(json);
    struct buf b;
    buf_init(&b, REPORT_BYTES);
    report_job(&b, &(struct job_facts){
                       .cid = 7, .watched = r, .ladder = &ladder, .row = row, .policy = &policy});
    redis_reply_free(r);
    return text_of(&b);
}

/* The one sentence, by job hash, JSON, lock, due and gate; it is 1000 s. */
static void now(void **state) {
    (void)state;
    static const struct {
        const char *json, *fields, *lock, *due, *until;
        int alive;
        const char *says;
    } cases[] = {
        {"null", "[]", "null", "null", "null", 2, "no count of it is known"},
        {UPDATE, "[\"state\", \"queued\"]", "null", "\"1000000\"", "null", 2,
         "it waits for a worker, due now"},
        {UPDATE, "[\"state\", \"queued\"]", "null", "\"1004000\"", "null", 2,
         "it waits for a worker, due in 4 s"},
        {UPDATE, "[\"state\", \"queued\"]", "null", "\"999999\"", "null", 0,
         "it waits; no worker is alive"},
        {UPDATE, "[]", "null", "null", "null", 2, "it waits for a worker, due now"},
        {UPDATE, "[\"state\", \"claimed\", \"src\", \"bronze\", \"target\", \"gold\"]", "\"w.1.a\"",
         "\"1030000\"", "null", 2, "w.1.a moves it from bronze to gold"},
        {UPDATE, "[\"state\", \"claimed\"]", "null", "\"1000000\"", "null", 2,
         "it waits for a worker, due now"},
        {JSON("done", ""), "[\"state\", \"done\", \"target\", \"gold\"]", "null", "\"1000000\"",
         "null", 2, "the copy in gold stands; the catalogue is still to be told"},
        {JSON("done", ""), "[\"state\", \"committed\"]", "null", "\"1180000\"", "null", 2,
         "it is where it belongs; an old copy is taken away in 3 min"},
        {JSON("done", ""), "[\"state\", \"cancelled\"]", "null", "\"1\"", "null", 2,
         "it is where it belongs; an old copy is taken away now"},
        {JSON("done", ""), "[]", "null", "null", "null", 2,
         "nothing is under way; the next post decides anew"},
        {JSON("dead", FAILED), "[]", "null", "null", "null", 2,
         "dead: x \\\"y\\\"; a post or `tierd retry 7` starts it anew"},
        {JSON("conflict", FAILED), "[\"state\", \"conflict\"]", "null", "null", "null", 0,
         "conflict: x \\\"y\\\"; a post or `tierd retry 7` starts it anew"},
        {UPDATE, "[\"state\", \"backoff\", \"error\", \"full\"]", "null", "\"1060000\"", "null", 2,
         "it is tried again in 60 s: full"},
        {UPDATE, "[\"state\", \"backoff\", \"error\", \"full\"]", "null", "\"1000000\"", "null", 2,
         "it waits for a worker, due now"},
        {UPDATE, "[\"state\", \"queued\", \"gate\", \"@all\"]", "null", "null", "\"0\"", 2,
         "all moves are paused; it goes on when it is resumed"},
        {UPDATE, "[\"state\", \"queued\", \"gate\", \"@all\"]", "null", "null", "\"1000500\"", 2,
         "all moves are paused; it goes on in 500 ms"},
        {UPDATE, "[\"state\", \"queued\", \"gate\", \"@window\"]", "null", "null", "\"8200000\"", 2,
         "moves start in the window only; it opens in 2 h"},
        {UPDATE, "[\"state\", \"queued\", \"gate\", \"@busy:gold\"]", "null", "null", "\"1000500\"",
         2, "as many moves into gold are under way as level-jobs allows"},
        {UPDATE, "[\"state\", \"queued\", \"gate\", \"@route\\ngold\\nbronze\\n\"]", "null", "null",
         "null", 2, "it waits for a worker that reaches gold and bronze"},
        {UPDATE, "[\"state\", \"queued\", \"gate\", \"gold\"]", "null", "null", "\"0\"", 2,
         "the level gold is paused; it goes on when it is resumed"},
        /* another program wrote something else over the JSON; the hash is what counts */
        {"\"{}\"", "[\"state\", \"claimed\", \"src\", \"bronze\", \"target\", \"gold\"]", "\"w\"",
         "null", "null", 2, "w moves it from bronze to gold"},
        {"null", "[\"state\", \"done\", \"src\", \"bronze\", \"target\", \"gold\"]", "null", "null",
         "null", 2, "the copy in gold stands; the catalogue is still to be told"},
    };
    char json[1024], part[256];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(json, sizeof json, "[\"1000000\", %s, %s, %s, -2, %s, %s, null, [], [], %d]",
                 cases[i].json, cases[i].fields, cases[i].lock, cases[i].due, cases[i].until,
                 cases[i].alive);
        snprintf(part, sizeof part, "\"now\": \"%s\"", cases[i].says);
        char *text = job_of(json, &at_bronze);
        assert_has(text, part);
        free(text);
    }
}

static void all_of_a_job(void **state) {
    (void)state;
    char *text =
        job_of("[\"1000000\", " UPDATE
               ", [\"state\", \"claimed\", \"attempts\", \"2\", \"error\", \"e\"], "
               "\"w\", 900, \"1000900\", null, \"1 3 1 999000 0 w\", [\"gold\", \"95 5\"], "
               "[[\"5-0\", [\"cid\", \"7\"]]], 1]",
               &at_bronze);
    assert_has(
        text,
        "{\"cid\": \"7\", \"filename\": \"g.mp4\", \"level\": \"bronze\", \"level_path\": \"/b\", "
        "\"update_time\": \"\", \"count\": 2500, \"now\": ");
    assert_has(
        text,
        "\"decision\": {\"target\": \"bronze\", \"ladder\": \"gold\", \"rule\": \"max-use\", ");
    assert_has(text,
               "\"ladder\": [{\"level\": \"gold\", \"min_count\": 2000, \"use_percent\": 95, "
               "\"max_use_percent\": 90}, {\"level\": \"bronze\", \"min_count\": 0, "
               "\"use_percent\": null, \"max_use_percent\": 90}], \"job\": {\"cid\": \"7\", ");
    assert_has(text, "\"state\": \"claimed\", \"attempts\": 2, \"waits\": 0, \"crashes\": 0, "
                     "\"last_error\": \"e\", \"gate\": \"\", \"due_in_ms\": 900, \"progress\": "
                     "{\"done_bytes\": 1, \"total_bytes\": 3, \"bytes_per_s\": 1, "
                     "\"running_ms\": 1000, \"left_ms\": 2000, \"worker_id\": \"w\"}, "
                     "\"events\": [{\"time_ms\": 5, \"cid\": \"7\"}]}");
    free(text);
}

/* No row, a level that the ladder lost, a key that is no job, replies that are no replies. */
static void odd_jobs(void **state) {
    (void)state;
    struct content lost = at_bronze;
    strcpy(lost.level, "lost");
    char *text = job_of("[]", NULL);
    assert_has(text, "{\"cid\": \"7\", \"count\": null, \"now\": \"it is not in the catalogue\", ");
    assert_has(text, "\"job\": null, \"state\": \"\", \"attempts\": 0, ");
    assert_has(text, "\"due_in_ms\": null, \"progress\": null, \"events\": []}");
    free(text);
    text = job_of("[\"1\", \"no \\\"json\"]", &lost);
    assert_has(text, "\"level\": \"lost\", \"level_path\": \"\", ");
    assert_has(text, "\"count\": null, \"now\": \"no count of it is known\", ");
    free(text);
    free(job_of("null", &at_bronze));
    free(job_of("[[], [], 3, [], \"x\", [], [], [], \"y\", 4, []]", &at_bronze));
}

/* An error that is longer than a sentence may be is cut; what is left is text, even within a
 * character. */
static void a_long_error(void **state) {
    (void)state;
    static char json[16384];
    strcpy(json, "[\"1\", " UPDATE ", [\"state\", \"backoff\", \"error\", \"");
    for (int i = 0; i < 2001; i++)
        strcat(json, i ? "\xc3\xa9" : "x");
    strcat(json, "\"], null, 0, \"2\"]");
    char *text = job_of(json, &at_bronze);
    assert_has(text, "\"now\": \"it is tried again in 1 ms: x\xc3\xa9");
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(redis_away),
        cmocka_unit_test(all_of_a_status),
        cmocka_unit_test(closed_gates),
        cmocka_unit_test(a_long_route),
        cmocka_unit_test(levels_in_trouble),
        cmocka_unit_test(progress),
        cmocka_unit_test(long_names),
        cmocka_unit_test(workers),
        cmocka_unit_test(rates),
        cmocka_unit_test(events),
        cmocka_unit_test(broken_replies),
        cmocka_unit_test(amiss),
        cmocka_unit_test(amiss_is_told_once),
        cmocka_unit_test(too_large),
        cmocka_unit_test(numbers),
        cmocka_unit_test(use),
        cmocka_unit_test(now),
        cmocka_unit_test(all_of_a_job),
        cmocka_unit_test(odd_jobs),
        cmocka_unit_test(a_long_error),
    };
    return cmocka_run_group_tests_name("report", tests, setup, teardown);
}
