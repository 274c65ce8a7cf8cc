#include "unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

enum { SEEN_BYTES = 16384 };

/* stderr goes to a file of ours meanwhile; what was written there is read back. */
struct capture {
    int saved, fd;
    char path[32];
    char text[SEEN_BYTES];
};

static void capture_begin(struct capture *c) {
    snprintf(c->path, sizeof c->path, "/tmp/tierd-log.XXXXXX");
    c->fd = mkstemp(c->path);
    assert_true(c->fd >= 0);
    fflush(stderr);
    c->saved = dup(STDERR_FILENO);
    assert_int_equal(dup2(c->fd, STDERR_FILENO), STDERR_FILENO);
    log_setup(LOG_INFO, LOG_TEXT);
}

static const char *capture_end(struct capture *c) {
    dup2(c->saved, STDERR_FILENO);
    close(c->saved);
    ssize_t n = pread(c->fd, c->text, SEEN_BYTES - 1, 0);
    close(c->fd);
    unlink(c->path);
    unsetenv("JOURNAL_STREAM");
    log_setup(LOG_INFO, LOG_TEXT);
    assert_true(n >= 0);
    c->text[n] = '\0';
    return c->text;
}

/* Makes the captured file the journal, as systemd tells it. */
static void be_journal(const struct capture *c, ino_t off_by) {
    struct stat st;
    char stream[64];
    assert_int_equal(fstat(c->fd, &st), 0);
    snprintf(stream, sizeof stream, "%ju:%ju", (uintmax_t)st.st_dev,
             (uintmax_t)(st.st_ino + off_by));
    setenv("JOURNAL_STREAM", stream, 1);
}

/* The line without its time, which must look like one. */
static const char *after_time(const char *line) {
    unsigned y, mo, d, h, mi, s, ms;
    int n = 0;
    assert_int_equal(
        sscanf(line, "time=%4u-%2u-%2uT%2u:%2u:%2u.%3uZ %n", &y, &mo, &d, &h, &mi, &s, &ms, &n), 7);
    assert_int_equal(n, strlen("time=2026-11-24T10:00:00.000Z "));
    return line + n;
}

static void text_is_logfmt(void **state) {
    (void)state;
    struct capture c;
    capture_begin(&c);
    log_event(LOG_WARN, "a b", LOG_STR("worker_id", "h.1.a"), LOG_U64("cid", UINT64_MAX),
              LOG_STR("error", NULL), LOG_STR("listen", "a=b"), LOG_STR("host", "q\"q"));
    log_event(LOG_DEBUG, "not at this level", LOG_U64("cid", 1));
    assert_string_equal(after_time(capture_end(&c)),
                        "level=warn msg=\"a b\" worker_id=h.1.a cid=18446744073709551615 "
                        "error=\"\" listen=\"a=b\" host=\"q\\\"q\"\n");
}

static void json_has_the_same_fields(void **state) {
    (void)state;
    struct capture c;
    capture_begin(&c);
    log_setup(LOG_DEBUG, LOG_JSON);
    log_event(LOG_DEBUG, "a b", LOG_STR("error", "x"), LOG_U64("cid", 7));
    const char *line = capture_end(&c);
    assert_memory_equal(line, "{\"time\": \"", 10);
    assert_string_equal(
        strchr(line, 'Z'),
        "Z\", \"level\": \"debug\", \"msg\": \"a b\", \"error\": \"x\", \"cid\": 7}\n");
}

static void nothing_forges_a_line_or_drives_a_terminal(void **state) {
    (void)state;
    struct capture c;
    capture_begin(&c);
    log_event(LOG_ERROR, "x\nlevel=error", LOG_STR("a", "\x1b[31m\r"), LOG_STR("b", "\x7f\t"),
              LOG_STR("c", "\xc2\x9b"), LOG_STR("d", "\xff\xc3("), LOG_STR("e", "h\xc3\xa9"));
    log_refusal("--listen: '%s' is not allowed", "\x1b]0;x\a\nnext\xff");
    const char *text = capture_end(&c);
    const char *second = strchr(text, '\n') + 1;
    assert_string_equal(second,
                        "tierd: --listen: '\\u001b]0;x\\u0007\\nnext\\u00ff' is not allowed\n");
    c.text[second - text] = '\0';
    assert_string_equal(after_time(text),
                        "level=error msg=\"x\\nlevel=error\" a=\"\\u001b[31m\\r\" b=\"\\u007f\\t\" "
                        "c=\"\\u009b\" d=\"\\u00ff\\u00c3(\" e=\"h\xc3\xa9\"\n");
}

static void the_journal_gets_levels_and_no_time(void **state) {
    (void)state;
    struct capture c;
    capture_begin(&c);
    be_journal(&c, 0);
    log_setup(LOG_DEBUG, LOG_TEXT);
    log_event(LOG_DEBUG, "m", LOG_U64("cid", 1));
    log_event(LOG_INFO, "m", LOG_U64("cid", 2));
    log_event(LOG_WARN, "m", LOG_U64("cid", 3));
    log_setup(LOG_DEBUG, LOG_JSON);
    log_event(LOG_ERROR, "m", LOG_U64("cid", 4));
    log_plain("ready", &LOG_STR("role", "api"), 1);
    log_setup(LOG_INFO, LOG_TEXT);
    log_plain("ready", &LOG_STR("role", "api"), 1);
    log_refusal("no");
    assert_string_equal(
        capture_end(&c),
        "<7>level=debug msg=m cid=1\n<6>level=info msg=m cid=2\n"
        "<4>level=warn msg=m cid=3\n<3>{\"level\": \"error\", \"msg\": \"m\", \"cid\": 4}\n"
        "<6>{\"level\": \"info\", \"msg\": \"ready\", \"role\": \"api\"}\n"
        "<6>ready role=api\n<3>tierd: no\n");
}

static void a_redirected_stderr_is_not_the_journal(void **state) {
    (void)state;
    struct capture c;
    capture_begin(&c);
    be_journal(&c, 1);
    log_setup(LOG_INFO, LOG_TEXT);
    log_event(LOG_INFO, "m", LOG_U64("cid", 1));
    log_plain("ready", &LOG_STR("role", "api"), 1);
    assert_string_equal(after_time(capture_end(&c)), "level=info msg=m cid=1\nready role=api\n");
}

/* PIPE_BUF: a longer line may be torn by another process; a message is cut, never lost. */
static void a_line_is_bounded_and_whole(void **state) {
    (void)state;
    static char longest[6000];
    struct capture c;
    for (size_t i = 0; i + 2 < sizeof longest; i += 2)
        memcpy(longest + i, "\xc3\xa9", 2);
    for (int format = LOG_TEXT; format <= LOG_JSON; format++) {
        capture_begin(&c);
        log_setup(LOG_INFO, (enum log_format)format);
        log_event(LOG_INFO, longest, LOG_STR("worker_id", "h.1.a"), LOG_STR("error", longest));
        const char *line = capture_end(&c);
        size_t n = strlen(line);
        assert_true(n > 3000 && n <= 4096);
        assert_ptr_equal(strchr(line, '\n'), line + n - 1);
        assert_non_null(strstr(line, "\xc3\xa9...\""));
        assert_null(strstr(line, "\\u00")); /* cut between characters */
        assert_non_null(strstr(line, "h.1.a"));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_is_logfmt),
        cmocka_unit_test(json_has_the_same_fields),
        cmocka_unit_test(nothing_forges_a_line_or_drives_a_terminal),
        cmocka_unit_test(the_journal_gets_levels_and_no_time),
        cmocka_unit_test(a_redirected_stderr_is_not_the_journal),
        cmocka_unit_test(a_line_is_bounded_and_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
