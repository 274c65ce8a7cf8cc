#include "unit.h"

#include <errno.h>
#include <string.h>

#include "job/job.h"
#include "job/ladder.h"

static const char golden[] =
    "{\"cid\": \"3\", \"count\": \"664\", \"target\": \"bronze\", \"db_level\": \"silver\", "
    "\"filename\": \"c.mp4\", \"worker_id\": null, \"status\": \"update\"}";

static void golden_both_ways(void **state) {
    (void)state;
    struct job job;
    struct buf b;
    buf_init(&b, JOB_JSON_BYTES);
    assert_int_equal(job_read(str_view(golden), 3, &job), JOB_OK);
    assert_int_equal(job.count, 664);
    assert_string_equal(job.worker_id, "");
    job_write(&b, &job);
    assert_int_equal(b.len, sizeof golden - 1);
    assert_memory_equal(b.data, golden, b.len);
    buf_clear(&b);
    job_write_head(&b, &job);
    assert_memory_equal(b.data, golden, b.len);
    assert_memory_equal(b.data + b.len - 13, "\"worker_id\": ", 13);
    buf_release(&b);
}

static void error_comes_last(void **state) {
    (void)state;
    struct job job;
    struct buf b;
    buf_init(&b, JOB_JSON_BYTES);
    assert_int_equal(job_read(str_view(golden), 3, &job), JOB_OK);
    job.status = JOB_CONFLICT;
    strcpy(job.worker_id, "h.1.a");
    strcpy(job.error, "in \"the\" way");
    job_write(&b, &job);
    const char end[] =
        "\"worker_id\": \"h.1.a\", \"status\": \"conflict\", \"error\": \"in \\\"the\\\" way\"}";
    assert_memory_equal(b.data + b.len - (sizeof end - 1), end, sizeof end - 1);
    buf_release(&b);
}

static void other_writers(void **state) {
    (void)state;
    struct job job;
    assert_int_equal(
        job_read(
            str_view(
                "{\"status\":\"update\",\"cid\":18446744073709551615,\"count\":9223372036854775807,"
                "\"filename\":\"\\u00e9/x\",\"target\":\"g\",\"db_level\":\"b\",\"more\":[1]}"),
            UINT64_MAX, &job),
        JOB_OK);
    assert_true(job.cid == UINT64_MAX);
    assert_string_equal(job.filename, "\xc3\xa9/x");
}

static void refusals(void **state) {
    (void)state;
    struct job job;
    char text[600];
    memset(&job, 7, sizeof job);
    assert_int_equal(job_read(str_view(golden), 4, &job), JOB_OTHER_CID);
    assert_int_equal(job_read(str_view("{"), 3, &job), JOB_NOT_JSON);
    assert_int_equal(job_read(str_view("[]"), 3, &job), JOB_NOT_JSON);
    assert_int_equal(job_read(str_view(""), 3, &job), JOB_NOT_JSON);
    static const char *const edits[][2] = {{"\"3\"", "\"03\""},
                                           {"\"3\"", "3.0"},
                                           {"\"664\"", "-1"},
                                           {"\"664\"", "\"9223372036854775808\""},
                                           {"\"bronze\"", "null"},
                                           {"\"c.mp4\"", "\"\""},
                                           {"\"c.mp4\"", "\"a\\u0000b\""},
                                           {"null", "7"},
                                           {"\"update\"", "\"upgrade\""}};
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        const char *at = strstr(golden, edits[i][0]);
        size_t before = (size_t)(at - golden);
        memcpy(text, golden, before);
        strcpy(text + before, edits[i][1]);
        strcat(text, at + strlen(edits[i][0]));
        assert_int_equal(job_read(str_view(text), 3, &job), JOB_BAD_FIELD);
    }
    assert_int_equal(((unsigned char *)&job)[0], 7); /* failures wrote nothing */
}

static void cids(void **state) {
    (void)state;
    uint64_t n;
    assert_int_equal(job_cid_parse(str_view("1"), &n), 0);
    assert_int_equal(job_cid_parse(str_view("0"), &n), -ERANGE);
    assert_int_equal(job_cid_parse(str_view("1abc"), &n), -EINVAL);
    assert_int_equal(job_count_parse(str_view("9223372036854775808"), &n), -ERANGE);
}

static void ladder(void **state) {
    (void)state;
    struct ladder l;
    ladder_init(&l);
    assert_null(ladder_target(&l, 5));
    assert_int_equal(ladder_add(&l, str_view("gold"), str_view("/g"), 2000), 0);
    assert_int_equal(ladder_add(&l, str_view("bronze"), str_view("/b"), 10), 0);
    assert_int_equal(ladder_add(&l, str_view("silver"), str_view("/s"), 1000), 0);
    assert_int_equal(ladder_add(&l, str_view("other"), str_view("/o"), 1000), -EEXIST);
    assert_int_equal(ladder_add(&l, str_view("gold"), str_view("/o"), 7), -EEXIST);
    assert_int_equal(ladder_add(&l, str_view(""), str_view("/o"), 7), -EINVAL);
    static const struct {
        uint64_t count;
        const char *level;
    } cases[] = {{0, "bronze"},    {9, "bronze"},    {10, "bronze"}, {999, "bronze"},
                 {1000, "silver"}, {1999, "silver"}, {2000, "gold"}, {UINT64_MAX, "gold"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_string_equal(ladder_target(&l, cases[i].count)->name, cases[i].level);
    assert_null(ladder_find(&l, str_view("Gold"))); /* byte for byte */
    ladder_release(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_both_ways),
        cmocka_unit_test(error_comes_last),
        cmocka_unit_test(other_writers),
        cmocka_unit_test(refusals),
        cmocka_unit_test(cids),
        cmocka_unit_test(ladder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
