#include "unit.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "net/form.h"
#include "net/http_parse.h"

enum { BODY_MAX = 64 };

struct outcome {
    enum http_result result;
    int status;
    struct http_request req;
    char body[BODY_MAX + 1];
    size_t end;
};

/* Memory that ends right before a page nobody may touch: reading past the input is a crash. */
static char *guarded(size_t len) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = len / page + 2;
    char *p = mmap(NULL, pages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    assert_int_equal(mprotect(p + (pages - 1) * page, page, PROT_NONE), 0);
    return p + (pages - 1) * page - len;
}

static void unguard(char *p, size_t len) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = len / page + 2;
    munmap(p + len - (pages - 1) * page, pages * page);
}

/* Feeds `text` in two pieces, cut at `cut`, and then byte by byte when `step` is 1. */
static struct outcome feed(const char *text, size_t len, size_t cut, size_t step) {
    struct outcome o = {.result = HTTP_MORE};
    struct http_progress p = {0};
    const char *why = NULL;
    bool head = false;
    size_t body_len = 0;
    char *data = guarded(len);
    memcpy(data, text, len);
    for (size_t n = step ? 1 : cut; o.result == HTTP_MORE; n = step ? n + 1 : len) {
        o.result = head ? HTTP_DONE : http_head_parse(&p, data, n, &o.req, &o.status, &why);
        if (o.result == HTTP_DONE) {
            head = true;
            o.result =
                http_body_parse(&p, &o.req, data, n, BODY_MAX, &body_len, &o.end, &o.status, &why);
        }
        if (n >= len)
            break;
    }
    if (o.result == HTTP_DONE)
        memcpy(o.body, data + o.req.head_bytes, body_len);
    if (o.result == HTTP_BAD)
        assert_non_null(why);
    unguard(data, len);
    return o;
}

#define H      "Host: x\r\n"
#define LONG64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static const struct {
    const char *text;
    enum http_result result;
    int status;
    const char *body;
} cases[] = {
    {"GET / HTTP/1.1\r\n" H "\r\n", HTTP_DONE, 0, ""},
    {"\r\nGET / HTTP/1.1\r\n" H "\r\n", HTTP_DONE, 0, ""},
    {"POST /p?q HTTP/1.1\r\n" H "Content-Length: 3\r\n\r\nabc", HTTP_DONE, 0, "abc"},
    {"POST / HTTP/1.1\r\n" H "Content-Length: 0\r\n\r\n", HTTP_DONE, 0, ""},
    {"POST / HTTP/1.0\r\nContent-Length: 1\r\n\r\nx", HTTP_DONE, 0, "x"},
    {"POST / HTTP/1.1\r\n" H
     "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=\"y\"\r\n0123456789\r\n0\r\n\r\n",
     HTTP_DONE, 0, "abc0123456789"},
    {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: CHUNKED\r\n\r\n0\r\nA: b\r\nC: d\r\n\r\n",
     HTTP_DONE, 0, ""},
    {"GET http://h:80/x HTTP/1.1\r\n" H "\r\n", HTTP_DONE, 0, ""},
    {"OPTIONS * HTTP/1.1\r\n" H "\r\n", HTTP_DONE, 0, ""},
    {"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", HTTP_DONE, 0, ""},
    {"GET / HTTP/1.1\r\n" H, HTTP_MORE, 0, NULL},
    {"POST / HTTP/1.1\r\n" H "Content-Length: 3\r\n\r\nab", HTTP_MORE, 0, NULL},
    {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", HTTP_MORE, 0,
     NULL},
    {"GET * HTTP/1.1\r\n" H "\r\n", HTTP_BAD, 400, NULL},
    {"GET  / HTTP/1.1\r\n" H "\r\n", HTTP_BAD, 400, NULL},
    {"GET / HTTP/1.1 \r\n" H "\r\n", HTTP_BAD, 400, NULL},
    {"GET / http/1.1\r\n" H "\r\n", HTTP_BAD, 400, NULL},
    {"GET / HTTP/1.10\r\n" H "\r\n", HTTP_BAD, 400, NULL},
    {"GET / HTTP/2.0\r\n" H "\r\n", HTTP_BAD, 505, NULL},
    {"G@T / HTTP/1.1\r\n" H "\r\n", HTTP_BAD, 400, NULL},
    {"get / HTTP/1.1\r\n" H "\r\n", HTTP_BAD, 501, NULL},
    {"GET /\x7f HTTP/1.1\r\n" H "\r\n", HTTP_BAD, 400, NULL},
    {"GET /#f HTTP/1.1\r\n" H "\r\n", HTTP_BAD, 400, NULL},
    {"GET x HTTP/1.1\r\n" H "\r\n", HTTP_BAD, 400, NULL},
    {"GET / HTTP/1.1\r\n\r\n", HTTP_BAD, 400, NULL},
    {"GET / HTTP/1.1\r\n" H H "\r\n", HTTP_BAD, 400, NULL},
    {"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", HTTP_BAD, 400, NULL},
    {"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", HTTP_BAD, 400, NULL},
    {"GET / HTTP/1.1\n" H "\r\n", HTTP_BAD, 400, NULL},
    {"GET / HTTP/1.1\r\r\n" H "\r\n", HTTP_BAD, 400, NULL},
    {"GET / HTTP/1.1\r\n" H "A: b\rc\r\n\r\n", HTTP_BAD, 400, NULL},
    {"GET / HTTP/1.1\r\n" H "A : b\r\n\r\n", HTTP_BAD, 400, NULL},
    {"GET / HTTP/1.1\r\n" H " b\r\n\r\n", HTTP_BAD, 400, NULL},
    {"GET / HTTP/1.1\r\n" H ": b\r\n\r\n", HTTP_BAD, 400, NULL},
    {"GET / HTTP/1.1\r\n" H "A\r\n\r\n", HTTP_BAD, 400, NULL},
    {"GET / HTTP/1.1\r\n" H "A: \x01\r\n\r\n", HTTP_BAD, 400, NULL},
    {"POST / HTTP/1.1\r\n" H "\r\n", HTTP_BAD, 411, NULL},
    {"POST / HTTP/1.1\r\n" H "Content-Length: 65\r\n\r\n", HTTP_BAD, 413, NULL},
    {"POST / HTTP/1.1\r\n" H "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", HTTP_BAD, 400,
     NULL},
    {"POST / HTTP/1.1\r\n" H "Content-Length: 1,1\r\n\r\nx", HTTP_BAD, 400, NULL},
    {"POST / HTTP/1.1\r\n" H "Content-Length: -1\r\n\r\nx", HTTP_BAD, 400, NULL},
    {"POST / HTTP/1.1\r\n" H "Content-Length:\r\n\r\nx", HTTP_BAD, 400, NULL},
    {"POST / HTTP/1.1\r\n" H "Content-Length: 18446744073709551616\r\n\r\nx", HTTP_BAD, 400, NULL},
    {"POST / HTTP/1.1\r\n" H "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", HTTP_BAD,
     400, NULL},
    {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: gzip, chunked\r\n\r\n", HTTP_BAD, 501, NULL},
    {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
     HTTP_BAD, 501, NULL},
    {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", HTTP_BAD, 400, NULL},
    {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n\r\n", HTTP_BAD, 400, NULL},
    {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n3\nabc", HTTP_BAD, 400, NULL},
    {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd", HTTP_BAD, 400, NULL},
    {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n", HTTP_BAD,
     400, NULL},
    {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", HTTP_BAD,
     413, NULL},
    {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n40\r\n" LONG64 "\r\n1\r\nx",
     HTTP_BAD, 413, NULL},
    {"POST / HTTP/1.1\r\n" H "Expect: coffee\r\nContent-Length: 1\r\n\r\nx", HTTP_BAD, 417, NULL},
    {"POST / HTTP/1.1\r\n" H "Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", HTTP_BAD, 415,
     NULL},
};

static void check(size_t i, struct outcome o) {
    if (o.result != cases[i].result || (o.result == HTTP_BAD && o.status != cases[i].status) ||
        (o.result == HTTP_DONE && strcmp(o.body, cases[i].body) != 0))
        fail_msg("case %zu: result %d status %d body '%s' for:\n%s", i, o.result, o.status, o.body,
                 cases[i].text);
    if (o.result == HTTP_DONE)
        assert_int_equal(o.end, strlen(cases[i].text));
}

static void split_at_every_position(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t len = strlen(cases[i].text);
        for (size_t cut = 1; cut <= len; cut++)
            check(i, feed(cases[i].text, len, cut, 0));
    }
}

static void byte_by_byte(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check(i, feed(cases[i].text, strlen(cases[i].text), 0, 1));
}

static void meaning(void **state) {
    (void)state;
    const char text[] =
        "POST /a/b?c=d HTTP/1.1\r\nhOST: x\r\nConnection: a, Close\r\nContent-Type:  text/x \r\n"
        "Expect: 100-Continue\r\nContent-Length: 0\r\n\r\n";
    struct http_request req;
    struct http_progress p = {0};
    int status;
    const char *why;
    assert_int_equal(http_head_parse(&p, text, sizeof text - 1, &req, &status, &why), HTTP_DONE);
    assert_true(req.method == HTTP_POST && str_is(req.path, "/a/b") && str_is(req.query, "c=d"));
    assert_true(str_is(req.content_type, "text/x") && req.expect_continue && !req.keep_alive);
}

static void nul_in_the_head(void **state) {
    (void)state;
    const char text[] = "GET / HTTP/1.1\r\nHost: x\r\nA: \0b\r\n\r\n";
    struct outcome o = feed(text, sizeof text - 1, sizeof text - 1, 0);
    assert_int_equal(o.status, 400);
}

static void limits(void **state) {
    (void)state;
    static char text[HTTP_HEAD_MAX + 100];
    size_t n = (size_t)sprintf(text, "GET /");
    memset(text + n, 'a', sizeof text - n);
    assert_int_equal(feed(text, HTTP_LINE_MAX + 2, HTTP_LINE_MAX + 2, 0).status, 414);
    n = (size_t)sprintf(text, "GET / HTTP/1.1\r\nHost: x\r\nA: ");
    memset(text + n, 'a', sizeof text - n);
    assert_int_equal(feed(text, HTTP_HEAD_MAX + 2, HTTP_HEAD_MAX + 2, 0).status, 431);
    n = (size_t)sprintf(text, "GET / HTTP/1.1\r\nHost: x\r\n");
    for (int i = 0; i < HTTP_FIELDS_MAX; i++)
        n += (size_t)sprintf(text + n, "A: b\r\n");
    n += (size_t)sprintf(text + n, "\r\n");
    assert_int_equal(feed(text, n, n, 0).status, 431);
}

static void forms(void **state) {
    (void)state;
    struct form_field f[] = {{.name = "cid"}, {.name = "count"}};
    form_read(str_view("cid=7&count=19%36+4&x=y&cid"), f, 2);
    assert_int_equal(f[0].times, 2);
    assert_string_equal(f[1].value, "196 4");
    form_read(str_view("cid=%00&count=%"), f, 2);
    assert_true(f[0].malformed && f[1].malformed && f[0].times == 1 && f[1].times == 1);
    form_read(str_view("&&=&c%69d=5"), f, 2);
    assert_string_equal(f[0].value, "5");
    assert_int_equal(f[1].times, 0);
    assert_true(
        form_read_json(str_view("{\"cid\": 18446744073709551615, \"count\": \"5\"}"), f, 2));
    assert_string_equal(f[0].value, "18446744073709551615");
    assert_true(form_read_json(str_view("{\"cid\": null, \"cid\": 1, \"count\": []}"), f, 2));
    assert_true(f[0].times == 2 && f[1].malformed);
    assert_false(form_read_json(str_view("[1]"), f, 2));
    assert_false(form_read_json(str_view("{\"cid\": 1} x"), f, 2));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(split_at_every_position),
        cmocka_unit_test(byte_by_byte),
        cmocka_unit_test(meaning),
        cmocka_unit_test(nul_in_the_head),
        cmocka_unit_test(limits),
        cmocka_unit_test(forms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
