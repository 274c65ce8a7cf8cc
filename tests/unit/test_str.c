#include "unit.h"

#include <errno.h>
#include <string.h>

#include "base/buf.h"
#include "base/name.h"
#include "base/str.h"
#include "base/url.h"

static void numbers(void **state) {
    (void)state;
    uint64_t n = 5;
    assert_int_equal(str_u64(str_view("18446744073709551615"), UINT64_MAX, &n), 0);
    assert_true(n == UINT64_MAX);
    assert_int_equal(str_u64(str_view("0"), 10, &n), 0);
    assert_int_equal(n, 0);
    assert_int_equal(str_u64(str_view("18446744073709551616"), UINT64_MAX, &n), -ERANGE);
    assert_int_equal(str_u64(str_view("11"), 10, &n), -ERANGE);
    const char *const bad[] = {"", "01", "00", "+1", "-1", " 1", "1 ", "1a", "0x1", "1.0"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(str_u64(str_view(bad[i]), UINT64_MAX, &n), -EINVAL);
    assert_int_equal(n, 0); /* failures wrote nothing */
}

static void durations_and_sizes(void **state) {
    (void)state;
    int64_t ms;
    uint64_t bytes;
    assert_int_equal(str_duration_ms(str_view("250ms"), &ms), 0);
    assert_int_equal(ms, 250);
    assert_int_equal(str_duration_ms(str_view("7d"), &ms), 0);
    assert_int_equal(ms, 604800000);
    assert_int_equal(str_duration_ms(str_view("0"), &ms), 0);
    assert_int_equal(str_duration_ms(str_view("5"), &ms), -EINVAL);
    assert_int_equal(str_duration_ms(str_view("s"), &ms), -EINVAL);
    assert_int_equal(str_duration_ms(str_view("9223372036854775807d"), &ms), -ERANGE);
    assert_int_equal(str_size_bytes(str_view("100M"), &bytes), 0);
    assert_int_equal(bytes, 104857600);
    assert_int_equal(str_size_bytes(str_view("17592186044416T"), &bytes), -ERANGE);
    assert_int_equal(str_size_bytes(str_view("1MB"), &bytes), -EINVAL);
}

static void decoding(void **state) {
    (void)state;
    char out[8];
    size_t n;
    assert_int_equal(str_form_decode(str_view("a+%62%2b"), out, sizeof out, &n), 0);
    assert_memory_equal(out, "a b+", 4);
    assert_int_equal(n, 4);
    assert_int_equal(str_url_decode(str_view("a+b"), out, sizeof out, &n), 0);
    assert_memory_equal(out, "a+b", 3);
    const char *const bad[] = {"%", "%4", "%4g", "abc%"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(str_form_decode(str_view(bad[i]), out, sizeof out, &n), -EINVAL);
    assert_int_equal(str_form_decode(str_view("123456789"), out, sizeof out, &n), -ENAMETOOLONG);
}

static void utf8(void **state) {
    (void)state;
    assert_int_equal(str_utf8_len("\xc3\xa9", 2), 2);
    assert_int_equal(str_utf8_len("\xf0\x9f\x98\x80", 4), 4);
    const char *const bad[] = {"\x80",         "\xc0\x80", "\xed\xa0\x80", "\xf5\x80\x80\x80",
                               "\xe0\x80\x80", "\xc3"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(str_utf8_len(bad[i], strlen(bad[i])), 0);
}

static void buffers_are_bounded(void **state) {
    (void)state;
    struct buf b;
    buf_init(&b, 10);
    assert_int_equal(buf_add(&b, "12345", 5), 0);
    assert_int_equal(buf_add(&b, "678901", 6), -ENOBUFS);
    assert_true(b.failed);
    assert_int_equal(b.len, 5); /* nothing of what did not fit */
    buf_consume(&b, 3);
    assert_memory_equal(b.data, "45", 2);
    buf_release(&b);
}

static void json_strings_are_always_valid(void **state) {
    (void)state;
    struct buf b;
    const char bytes[] = "a\"\\\n\x01\x7f\xff\xc2\x9b\xc3\xa9";
    buf_init(&b, 200);
    assert_int_equal(buf_add_json(&b, (struct str_view){bytes, sizeof bytes - 1}), 0);
    const char want[] = "\"a\\\"\\\\\\n\\u0001\\u007f\\u00ff\\u009b\xc3\xa9\"";
    assert_int_equal(b.len, sizeof want - 1);
    assert_memory_equal(b.data, want, b.len);
    buf_release(&b);
}

static void urls(void **state) {
    (void)state;
    struct url u;
    struct str_view v;
    assert_int_equal(url_parse(str_view("mysql://us%65r:p%40ss@[::1]:33/db?socket=/a&x"), &u), 0);
    assert_true(str_is(u.scheme, "mysql") && str_is(u.host, "::1") && str_is(u.path, "/db"));
    assert_int_equal(u.port, 33);
    char user[16], password[16];
    assert_int_equal(url_decode_user(&u, user, sizeof user, password, sizeof password), 0);
    assert_string_equal(user, "user");
    assert_string_equal(password, "p@ss");
    assert_true(url_query(&u, "socket", &v) && str_is(v, "/a"));
    assert_false(url_query(&u, "sock", &v));
    assert_int_equal(url_parse(str_view("unix:///path?db=1"), &u), 0);
    assert_true(u.host.len == 0 && str_is(u.path, "/path"));
    const char *const bad[] = {"",
                               "redis",
                               "redis:/x",
                               "://x",
                               "1a://x",
                               "redis://h:0",
                               "redis://h:65536",
                               "redis://h:x",
                               "redis://[::1",
                               "redis://[]",
                               "redis://a b",
                               "redis://h#f"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(url_parse(str_view(bad[i]), &u), -EINVAL);
}

static void names(void **state) {
    (void)state;
    char longest[300];
    memset(longest, 'n', sizeof longest);
    longest[255] = '\0';
    assert_int_equal(name_check(longest), NAME_OK);
    longest[255] = 'n';
    longest[256] = '\0';
    assert_int_equal(name_check(longest), NAME_TOO_LONG);
    assert_int_equal(name_check("2018/07/a.mp4"), NAME_OK);
    assert_int_equal(name_check("..."), NAME_OK);
    assert_int_equal(name_check(""), NAME_EMPTY);
    assert_int_equal(name_check("/a"), NAME_ABSOLUTE);
    assert_int_equal(name_check("a//b"), NAME_EMPTY_COMPONENT);
    assert_int_equal(name_check("a/"), NAME_EMPTY_COMPONENT);
    assert_int_equal(name_check("a/../b"), NAME_DOTS);
    assert_int_equal(name_check("a/."), NAME_DOTS);
    assert_int_equal(name_check("a\nb"), NAME_CONTROL);
    assert_int_equal(name_check("a/.tierd-old.1"), NAME_PRIVATE);
}

static void numbers_are_appended(void **state) {
    struct buf b;
    (void)state;
    buf_init(&b, 64);
    buf_add_u64(&b, 0);
    buf_add_str(&b, " ");
    buf_add_u64(&b, 1964);
    buf_add_str(&b, " ");
    buf_add_u64(&b, UINT64_MAX);
    assert_true(str_is((struct str_view){b.data, b.len}, "0 1964 18446744073709551615"));
    for (size_t i = 0; i < 3; i++)
        buf_add_u64(&b, UINT64_MAX);
    assert_true(b.failed); /* past the bound nothing is appended in part */
    assert_int_equal(b.len, 27 + 20);
    buf_release(&b);
}

static void spans(void **state) {
    static const struct {
        uint64_t ms;
        const char *text;
    } cases[] = {{0, "0 ms"},         {999, "999 ms"},    {1000, "1 s"},
                 {99999, "99 s"},     {100000, "1 min"},  {120000, "2 min"},
                 {5999999, "99 min"}, {6000000, "1 h"},   {172799999, "47 h"},
                 {172800000, "2 d"},  {604800000, "7 d"}, {UINT64_MAX, "213503982334 d"}};
    char out[STR_SPAN_BYTES];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_string_equal(str_span(cases[i].ms, out), cases[i].text);
}

static void sizes(void **state) {
    static const struct {
        uint64_t bytes;
        const char *down, *up;
    } cases[] = {
        {0, "0 B", "0 B"},
        {1023, "1023 B", "1023 B"},
        {1024, "1 KiB", "1 KiB"},
        {1025, "1 KiB", "1.1 KiB"},
        {UINT64_C(60) << 20, "60 MiB", "60 MiB"},
        {(UINT64_C(60) << 20) - 4096, "59.9 MiB", "60 MiB"},
        {(UINT64_C(60) << 20) + 1, "60 MiB", "60.1 MiB"},
        {UINT64_MAX, "16383.9 PiB", "16384 PiB"},
    };
    char out[STR_SIZE_BYTES];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_string_equal(str_size(cases[i].bytes, false, out), cases[i].down);
        assert_string_equal(str_size(cases[i].bytes, true, out), cases[i].up);
    }
}

static void numbers_to_text(void **state) {
    static const uint64_t values[] = {0, 7, 1964, UINT64_MAX};
    char out[STR_U64_BYTES];
    uint64_t back;
    (void)state;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        struct str_view v = str_from_u64(out, values[i]);
        assert_ptr_equal(v.ptr, out);
        assert_int_equal(str_u64(v, UINT64_MAX, &back), 0);
        assert_int_equal(back, values[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers),
        cmocka_unit_test(durations_and_sizes),
        cmocka_unit_test(decoding),
        cmocka_unit_test(utf8),
        cmocka_unit_test(urls),
        cmocka_unit_test(buffers_are_bounded),
        cmocka_unit_test(names),
        cmocka_unit_test(json_strings_are_always_valid),
        cmocka_unit_test(numbers_are_appended),
        cmocka_unit_test(spans),
        cmocka_unit_test(sizes),
        cmocka_unit_test(numbers_to_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
