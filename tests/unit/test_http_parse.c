/*
 * Every rule of tests/http-rules.md that can be seen in the bytes alone. Each request is fed whole,
 * byte by byte, and cut at every position, from memory of exactly its size, and must come out the
 * same.
 */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/form.h"
#include "net/http_parse.h"
#include "net/http_syntax.h"

enum { BODY_MAX = 64 };

#define G      "GET / HTTP/1.1\r\n"
#define H      "Host: x\r\n"
#define GH     G H
#define P      "POST / HTTP/1.1\r\n" H
#define TE     "Transfer-Encoding: chunked\r\n\r\n"
#define LONG64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

enum expected {
    MORE,   /* not complete */
    OPEN,   /* served, the connection goes on */
    CLOSE,  /* served, the connection ends */
    REFUSE, /* refused with a status, the connection goes on */
    BAD     /* refused with a status, the connection ends */
};

static const struct request_case {
    const char *name; /* what tests/http-rules.md calls it */
    const char *text;
    enum expected expected;
    int status;
    const char *path, *body; /* NULL: not compared */
    size_t len;              /* 0: strlen */
} cases[] = {
    /* request line, RFC 9112, 2.2, 2.3, 3, 3.1 */
    {"get", GH "\r\n", OPEN, 0, "/", "", 0},
    {"leading-crlf", "\r\n" GH "\r\n", OPEN, 0, "/", "", 0},
    {"leading-crlf-twice", "\r\n\r\n" GH "\r\n", BAD, 400, NULL, NULL, 0},
    {"leading-lf", "\n" GH "\r\n", BAD, 400, NULL, NULL, 0},
    {"leading-blank", " " GH "\r\n", BAD, 400, NULL, NULL, 0},
    {"two-blanks", "GET  / HTTP/1.1\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"tab-for-blank", "GET\t/ HTTP/1.1\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"blank-after-version", "GET / HTTP/1.1 \r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"blank-in-target", "GET /a b HTTP/1.1\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"no-version", "GET /\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"version-case", "GET / http/1.1\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"version-two-digits", "GET / HTTP/1.10\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"version-2", "GET / HTTP/2.0\r\n" H "\r\n", BAD, 505, NULL, NULL, 0},
    {"version-2-preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", BAD, 505, NULL, NULL, 0},
    {"version-0.9", "GET / HTTP/0.9\r\n" H "\r\n", BAD, 505, NULL, NULL, 0},
    {"version-1.2", "GET / HTTP/1.2\r\n" H "\r\n", OPEN, 0, "/", "", 0},
    {"method-bad-byte", "G@T / HTTP/1.1\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"method-case", "get / HTTP/1.1\r\n" H "\r\n", REFUSE, 501, "/", NULL, 0},
    {"method-unknown", "BREW /pot HTTP/1.1\r\n" H "\r\n", REFUSE, 501, "/pot", NULL, 0},
    {"method-unknown-content", "PUT /x HTTP/1.1\r\n" H "Content-Length: 3\r\n\r\nabc", REFUSE, 501,
     "/x", "abc", 0},
    {"method-connect", "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", BAD, 501,
     NULL, NULL, 0},
    {"method-connect-path", "CONNECT / HTTP/1.1\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"method-connect-no-port", "CONNECT a.example HTTP/1.1\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"method-connect-port-empty", "CONNECT [::1]: HTTP/1.1\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"method-connect-ipv6", "CONNECT [::1]:80 HTTP/1.1\r\n" H "\r\n", BAD, 501, NULL, NULL, 0},
    {"authority-form", "GET a.example:443 HTTP/1.1\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    /* targets, RFC 9112, 3.2; RFC 3986, 3.3, 3.4 */
    {"origin-form", "GET /a/b;c=1,2?d=e&f=%20? HTTP/1.1\r\n" H "\r\n", OPEN, 0, "/a/b;c=1,2", "",
     0},
    {"absolute-form", "GET http://h:80/x?y HTTP/1.1\r\n" H "\r\n", OPEN, 0, "/x", "", 0},
    {"absolute-form-case", "GET HTTP://h HTTP/1.1\r\n" H "\r\n", OPEN, 0, "/", "", 0},
    {"absolute-form-query", "GET http://h?y HTTP/1.1\r\n" H "\r\n", OPEN, 0, "/", "", 0},
    {"absolute-form-other-host", "GET http://a.example/x HTTP/1.1\r\nHost: b.example\r\n\r\n", OPEN,
     0, "/x", "", 0},
    {"absolute-form-no-host-field", "GET http://h/ HTTP/1.1\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"absolute-form-bad-host-field", "GET http://h/ HTTP/1.1\r\nHost: a b\r\n\r\n", BAD, 400, NULL,
     NULL, 0},
    {"absolute-form-empty-host", "GET http:///x HTTP/1.1\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"absolute-form-port-alone", "GET http://:80/x HTTP/1.1\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"absolute-form-user", "GET http://u@h/x HTTP/1.1\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"absolute-form-https", "GET https://h/x HTTP/1.1\r\n" H "\r\n", REFUSE, 421, "/x", NULL, 0},
    {"absolute-form-other-scheme", "GET ftp://h/x HTTP/1.1\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"asterisk", "OPTIONS * HTTP/1.1\r\n" H "\r\n", OPEN, 0, "*", "", 0},
    {"asterisk-get", "GET * HTTP/1.1\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"asterisk-more", "OPTIONS *x HTTP/1.1\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"asterisk-query", "OPTIONS *?x HTTP/1.1\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"asterisk-absolute", "OPTIONS http://h HTTP/1.1\r\n" H "\r\n", OPEN, 0, "*", "", 0},
    {"asterisk-absolute-slash", "OPTIONS http://h/ HTTP/1.1\r\n" H "\r\n", OPEN, 0, "/", "", 0},
    {"target-relative", "GET x HTTP/1.1\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"target-fragment", "GET /#f HTTP/1.1\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"target-delete", "GET /\x7f HTTP/1.1\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"target-not-ascii", "GET /\xc3\xa4 HTTP/1.1\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"target-bracket", "GET /a[1] HTTP/1.1\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"target-percent", "GET /%7Ex%2F HTTP/1.1\r\n" H "\r\n", OPEN, 0, "/%7Ex%2F", "", 0},
    {"target-percent-bad", "GET /%7 HTTP/1.1\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"target-percent-no-hex", "GET /?%zz HTTP/1.1\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    /* Host, RFC 9112, 3.2; RFC 9110, 7.2 */
    {"host-missing", G "\r\n", BAD, 400, NULL, NULL, 0},
    {"host-twice", GH H "\r\n", BAD, 400, NULL, NULL, 0},
    {"host-empty", G "Host:\r\n\r\n", OPEN, 0, "/", "", 0},
    {"host-missing-1.0", "GET / HTTP/1.0\r\n\r\n", CLOSE, 0, "/", "", 0},
    {"host-twice-1.0", "GET / HTTP/1.0\r\n" H H "\r\n", BAD, 400, NULL, NULL, 0},
    {"host-blank", G "Host: a b\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"host-list", G "Host: a, b\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"host-slash", G "Host: a/b\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"host-user", G "Host: u@a\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"host-hash", G "Host: a#b\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"host-percent", G "Host: a%41\r\n\r\n", OPEN, 0, "/", "", 0},
    {"host-percent-bad", G "Host: a%4\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"host-port", G "Host: a.example:8080\r\n\r\n", OPEN, 0, "/", "", 0},
    {"host-port-empty", G "Host: a:\r\n\r\n", OPEN, 0, "/", "", 0},
    {"host-port-letters", G "Host: a:b\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"host-port-large", G "Host: a:65536\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"host-port-alone", G "Host: :80\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"host-ipv6", G "Host: [::1]:80\r\n\r\n", OPEN, 0, "/", "", 0},
    {"host-ipv6-bad", G "Host: [::g]\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"host-ipv6-open", G "Host: [::1\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"host-ipv6-zone", G "Host: [fe80::1%25eth0]\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"host-ip-future", G "Host: [v1.a:b]\r\n\r\n", OPEN, 0, "/", "", 0},
    /* field syntax, RFC 9112, 2.2, 5, 5.1, 5.2; RFC 9110, 5.5 */
    {"field-case", G "hOsT: x\r\n\r\n", OPEN, 0, "/", "", 0},
    {"field-no-blank", G "Host:x\r\n\r\n", OPEN, 0, "/", "", 0},
    {"field-blanks", G "Host: \t x \t\r\n\r\n", OPEN, 0, "/", "", 0},
    {"field-obs-text", GH "A: \xe4\xff\r\n\r\n", OPEN, 0, "/", "", 0},
    {"field-blank-before-colon", GH "A : b\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"field-tab-before-colon", GH "A\t: b\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"field-no-name", GH ": b\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"field-no-colon", GH "A\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"field-name-byte", GH "A(b): c\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"field-control", GH "A: \x01\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"field-delete", GH "A: \x7f\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"field-nul", GH "A: \0b\r\n\r\n", BAD, 400, NULL, NULL, sizeof(GH "A: \0b\r\n\r\n") - 1},
    {"line-nul", "GET /\0 HTTP/1.1\r\n" H "\r\n", BAD, 400, NULL, NULL,
     sizeof("GET /\0 HTTP/1.1\r\n" H "\r\n") - 1},
    {"obs-fold", GH "A: b\r\n c\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"obs-fold-tab", GH "A: b\r\n\tc\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"blank-before-first-field", G " Host: x\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"bare-lf-line", "GET / HTTP/1.1\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"bare-lf-field", GH "A: b\n\r\n", BAD, 400, NULL, NULL, 0},
    {"bare-lf-end", GH "\n", BAD, 400, NULL, NULL, 0},
    {"bare-cr-line", "GET /\r HTTP/1.1\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"bare-cr-end", "GET / HTTP/1.1\r\r\n" H "\r\n", BAD, 400, NULL, NULL, 0},
    {"bare-cr-field", GH "A: b\rc\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"incomplete-head", GH, MORE, 0, NULL, NULL, 0},
    /* Content-Length, RFC 9112, 6.2, 6.3; RFC 9110, 8.6 */
    {"length", P "Content-Length: 3\r\n\r\nabc", OPEN, 0, "/", "abc", 0},
    {"length-0", P "Content-Length: 0\r\n\r\n", OPEN, 0, "/", "", 0},
    {"length-zeros", P "Content-Length: 0003\r\n\r\nabc", OPEN, 0, "/", "abc", 0},
    {"length-get", GH "Content-Length: 3\r\n\r\nabc", OPEN, 0, "/", "abc", 0},
    {"length-short", P "Content-Length: 3\r\n\r\nab", MORE, 0, NULL, NULL, 0},
    {"length-none", P "\r\n", BAD, 411, NULL, NULL, 0},
    {"length-none-1.0", "POST / HTTP/1.0\r\n\r\n", BAD, 411, NULL, NULL, 0},
    {"length-large", P "Content-Length: 65\r\n\r\n", BAD, 413, NULL, NULL, 0},
    {"length-64-bits", P "Content-Length: 18446744073709551615\r\n\r\n", BAD, 413, NULL, NULL, 0},
    {"length-overflow", P "Content-Length: 18446744073709551616\r\n\r\nx", BAD, 400, NULL, NULL, 0},
    {"length-twice", P "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", BAD, 400, NULL, NULL, 0},
    {"length-differs", P "Content-Length: 1\r\nContent-Length: 2\r\n\r\nx", BAD, 400, NULL, NULL,
     0},
    {"length-list", P "Content-Length: 1, 1\r\n\r\nx", BAD, 400, NULL, NULL, 0},
    {"length-plus", P "Content-Length: +1\r\n\r\nx", BAD, 400, NULL, NULL, 0},
    {"length-minus", P "Content-Length: -1\r\n\r\nx", BAD, 400, NULL, NULL, 0},
    {"length-hex", P "Content-Length: 0x1\r\n\r\nx", BAD, 400, NULL, NULL, 0},
    {"length-blank", P "Content-Length: 1 1\r\n\r\nx", BAD, 400, NULL, NULL, 0},
    {"length-empty", P "Content-Length:\r\n\r\nx", BAD, 400, NULL, NULL, 0},
    /* Transfer-Encoding, RFC 9112, 6.1, 6.3, 7 */
    {"chunked", P TE "3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n", OPEN, 0, "/", "abc0123456789", 0},
    {"chunked-case", P "Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n", OPEN, 0, "/", "", 0},
    {"chunked-get", GH TE "1\r\nx\r\n0\r\n\r\n", OPEN, 0, "/", "x", 0},
    {"chunked-and-length", P "Content-Length: 1\r\n" TE, BAD, 400, NULL, NULL, 0},
    {"chunked-then-length", P "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
     BAD, 400, NULL, NULL, 0},
    {"chunked-1.0", "POST / HTTP/1.0\r\n" TE "0\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"chunked-1.0-length",
     "POST / HTTP/1.0\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", BAD, 400, NULL,
     NULL, 0},
    {"chunked-twice", P "Transfer-Encoding: chunked, chunked\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"chunked-twice-lines", P "Transfer-Encoding: chunked\r\n" TE, BAD, 400, NULL, NULL, 0},
    {"chunked-not-last", P "Transfer-Encoding: chunked, gzip\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"chunked-parameter", P "Transfer-Encoding: chunked;a=b\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"coding-gzip-chunked", P "Transfer-Encoding: gzip, chunked\r\n\r\n", BAD, 501, NULL, NULL, 0},
    {"coding-gzip-chunked-lines", P "Transfer-Encoding: gzip\r\n" TE, BAD, 501, NULL, NULL, 0},
    {"coding-parameter", P "Transfer-Encoding: x;a=b , chunked\r\n\r\n", BAD, 501, NULL, NULL, 0},
    {"coding-alone", P "Transfer-Encoding: gzip\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"coding-identity", P "Transfer-Encoding: identity\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"coding-empty", P "Transfer-Encoding:\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"coding-empty-members", P "Transfer-Encoding: , chunked,\r\n\r\n0\r\n\r\n", OPEN, 0, "/", "",
     0},
    {"coding-malformed", P "Transfer-Encoding: \"chunked\"\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"coding-vt",
     P "Transfer-Encoding: \x0b"
       "chunked\r\n\r\n",
     BAD, 400, NULL, NULL, 0},
    /* the chunked coding, RFC 9112, 7.1 */
    {"chunk-zeros", P TE "0003\r\nabc\r\n000\r\n\r\n", OPEN, 0, "/", "abc", 0},
    {"chunk-hex-cases", P TE "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", OPEN, 0, "/",
     "01234567890123456789", 0},
    {"chunk-no-size", P TE "\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"chunk-no-hex", P TE "g\r\n", BAD, 400, NULL, NULL, 0},
    {"chunk-minus", P TE "-1\r\nx\r\n0\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"chunk-0x", P TE "0x3\r\nabc\r\n0\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"chunk-blank-before", P TE " 3\r\nabc\r\n0\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"chunk-blank-after", P TE "3 \r\nabc\r\n0\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"chunk-bare-lf", P TE "3\nabc", BAD, 400, NULL, NULL, 0},
    {"chunk-bare-cr", P TE "3\rabc", BAD, 400, NULL, NULL, 0},
    {"chunk-data-long", P TE "3\r\nabcd", BAD, 400, NULL, NULL, 0},
    {"chunk-data-bare-lf", P TE "3\r\nabc\n0\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"chunk-data-bare-cr", P TE "3\r\nabc\rX0\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"chunk-data-any-bytes", P TE "5\r\n\r\n0\r\n\r\n0\r\n\r\n", OPEN, 0, "/", "\r\n0\r\n", 0},
    {"chunk-overflow", P TE "10000000000000000\r\n", BAD, 400, NULL, NULL, 0},
    {"chunk-64-bits", P TE "ffffffffffffffff\r\n", BAD, 413, NULL, NULL, 0},
    {"chunk-large", P TE "41\r\n", BAD, 413, NULL, NULL, 0},
    {"chunk-sum-large", P TE "40\r\n" LONG64 "\r\n1\r\nx", BAD, 413, NULL, NULL, 0},
    {"chunk-at-the-limit", P TE "40\r\n" LONG64 "\r\n0\r\n\r\n", OPEN, 0, "/", LONG64, 0},
    {"chunk-incomplete", P TE "3\r\nabc\r\n0\r\n", MORE, 0, NULL, NULL, 0},
    {"ext-token", P TE "3;a=b;c\r\nabc\r\n0;d\r\n\r\n", OPEN, 0, "/", "abc", 0},
    {"ext-quoted", P TE "3;a=\"b;\\\"c\\\\ \xe4\"\r\nabc\r\n0\r\n\r\n", OPEN, 0, "/", "abc", 0},
    {"ext-blanks", P TE "3 ; a = b\t;c\r\nabc\r\n0\r\n\r\n", OPEN, 0, "/", "abc", 0},
    {"ext-no-semicolon", P TE "3 a\r\nabc\r\n0\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"ext-no-name", P TE "3;\r\nabc\r\n0\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"ext-no-value", P TE "3;a=\r\nabc\r\n0\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"ext-quote-open", P TE "3;a=\"b\r\nabc\r\n0\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"ext-after-quote", P TE "3;a=\"b\"c\r\nabc\r\n0\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"ext-bare-lf", P TE "3;a\nabc\r\n0\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"ext-control", P TE "3;a=\"\x01\"\r\nabc\r\n0\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"trailer", P TE "1\r\nx\r\n0\r\nA: b\r\nContent-Length: 7\r\nHost: y\r\n\r\n", OPEN, 0, "/",
     "x", 0},
    {"trailer-no-colon", P TE "0\r\nA\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"trailer-blank-before-colon", P TE "0\r\nA : b\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"trailer-fold", P TE "0\r\nA: b\r\n c\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"trailer-control", P TE "0\r\nA: \x01\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"trailer-bare-lf", P TE "0\r\nA: b\n\r\n", BAD, 400, NULL, NULL, 0},
    {"trailer-bare-cr-field", P TE "0\r\nA: b\rX\r\n\r\n", BAD, 400, NULL, NULL, 0},
    {"trailer-bare-cr", P TE "0\r\n\rx", BAD, 400, NULL, NULL, 0},
    /* Expect, Content-Type, Content-Encoding, RFC 9110, 10.1.1, 8.3, 8.4 */
    {"expect-continue", P "Expect: 100-Continue\r\nContent-Length: 1\r\n\r\nx", OPEN, 0, "/", "x",
     0},
    {"expect-unknown", P "Expect: coffee\r\nContent-Length: 1\r\n\r\nx", REFUSE, 417, "/", "x", 0},
    {"expect-list", P "Expect: 100-continue, tea=1\r\nContent-Length: 1\r\n\r\nx", REFUSE, 417, "/",
     "x", 0},
    {"expect-empty", P "Expect:\r\nContent-Length: 1\r\n\r\nx", OPEN, 0, "/", "x", 0},
    {"expect-1.0", "POST / HTTP/1.0\r\nExpect: coffee\r\nContent-Length: 1\r\n\r\nx", CLOSE, 0, "/",
     "x", 0},
    {"encoding", P "Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", REFUSE, 415, "/", "x",
     0},
    {"encoding-identity", P "Content-Encoding: identity\r\nContent-Length: 1\r\n\r\nx", OPEN, 0,
     "/", "x", 0},
    {"type-twice", P "Content-Type: a/b\r\nContent-Type: a/b\r\nContent-Length: 1\r\n\r\nx", BAD,
     400, NULL, NULL, 0},
    /* persistence, RFC 9112, 9.3, 9.6; RFC 9110, 7.6.1 */
    {"close", GH "Connection: close\r\n\r\n", CLOSE, 0, "/", "", 0},
    {"close-list", GH "Connection: a, CLOSE\r\n\r\n", CLOSE, 0, "/", "", 0},
    {"close-lines", GH "Connection: a\r\nConnection: close\r\n\r\n", CLOSE, 0, "/", "", 0},
    {"close-beside-keep-alive", GH "Connection: keep-alive, close\r\n\r\n", CLOSE, 0, "/", "", 0},
    {"keep-alive-1.0", "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", OPEN, 0, "/", "", 0},
    {"close-1.0", "GET / HTTP/1.0\r\n\r\n", CLOSE, 0, "/", "", 0},
    {"close-1.0-both", "GET / HTTP/1.0\r\nConnection: close, keep-alive\r\n\r\n", CLOSE, 0, "/", "",
     0},
    {"post-1.0", "POST / HTTP/1.0\r\nContent-Length: 1\r\n\r\nx", CLOSE, 0, "/", "x", 0},
};
enum { N_CASES = sizeof cases / sizeof *cases };

struct outcome {
    enum http_result result;
    int status;
    bool keep_alive, head;
    char path[64], body[BODY_MAX + 1];
    size_t end; /* of the request, in the bytes that were sent */
};

static size_t case_len(const struct request_case *c) {
    return c->len ? c->len : strlen(c->text);
}

static void text_of(char *dst, size_t cap, struct str_view v) {
    size_t n = v.len < cap ? v.len : cap - 1;
    if (n)
        memcpy(dst, v.ptr, n);
    dst[n] = '\0';
}

/* What a connection does with `n` further bytes: appends them to memory of exactly that size. */
static char *append(char *data, size_t len, const char *more, size_t n) {
    char *grown = malloc(len + n);
    if (len)
        memcpy(grown, data, len);
    memcpy(grown + len, more, n);
    free(data);
    return grown;
}

static struct outcome outcome_of(const struct http_request *req, const char *data, size_t body_len,
                                 size_t end, enum http_result rc, const struct http_refusal *bad) {
    struct outcome o = {.result = rc, .head = req->method == HTTP_HEAD};
    if (rc == HTTP_BAD) {
        o.status = bad->status;
        assert_true(bad->why && bad->why[0]);
    } else if (rc == HTTP_DONE) {
        o.status = req->refusal.status;
        o.keep_alive = req->keep_alive;
        o.end = end;
        text_of(o.body, sizeof o.body, (struct str_view){data + req->head_bytes, body_len});
    }
    return o;
}

/* Feeds `text` in pieces: up to `cut`, then `step` bytes at a time. */
static struct outcome feed(const char *text, size_t len, size_t cut, size_t step) {
    struct http_progress p = {0};
    struct http_request req = {0};
    struct http_refusal bad = {0};
    enum http_result rc = HTTP_MORE;
    char *data = NULL, path[64] = "";
    size_t have = 0, sent = 0, dropped = 0, body_len = 0, end = 0;
    bool head = false;
    for (size_t n = cut; rc == HTTP_MORE && sent < len; n = step) {
        n = n < len - sent ? n : len - sent;
        data = append(data, have, text + sent, n);
        have += n;
        sent += n;
        rc = head ? HTTP_DONE : http_head_parse(&p, data, have, &req, &bad);
        if (rc == HTTP_DONE && !head)
            text_of(path, sizeof path, req.path);
        head |= rc == HTTP_DONE;
        if (head)
            rc = http_body_parse(&p, &req, data, have, BODY_MAX, &body_len, &end, &bad);
        if (head && rc == HTTP_MORE) {
            size_t left = http_body_compact(&p, &req, data, have);
            dropped += have - left;
            have = left;
        }
    }
    struct outcome o = outcome_of(&req, data, body_len, end + dropped, rc, &bad);
    memcpy(o.path, path, sizeof path);
    free(data);
    return o;
}

static enum expected kind_of(struct outcome o) {
    if (o.result == HTTP_MORE)
        return MORE;
    if (o.result == HTTP_BAD)
        return BAD;
    if (o.status)
        return o.keep_alive ? REFUSE : BAD;
    return o.keep_alive ? OPEN : CLOSE;
}

static void check(const struct request_case *c, struct outcome o, const char *how, size_t at) {
    bool good = kind_of(o) == c->expected && o.status == c->status;
    if (good && o.result == HTTP_DONE)
        good = o.end == case_len(c) && (!c->path || strcmp(o.path, c->path) == 0) &&
               (!c->body || strcmp(o.body, c->body) == 0);
    if (!good)
        fail_msg("%s, %s %zu: kind %d status %d path '%s' body '%s' end %zu", c->name, how, at,
                 (int)kind_of(o), o.status, o.path, o.body, o.end);
}

static void whole(void **state) {
    (void)state;
    for (size_t i = 0; i < N_CASES; i++)
        check(&cases[i], feed(cases[i].text, case_len(&cases[i]), case_len(&cases[i]), 1), "whole",
              0);
}

static void byte_by_byte(void **state) {
    (void)state;
    for (size_t i = 0; i < N_CASES; i++)
        check(&cases[i], feed(cases[i].text, case_len(&cases[i]), 1, 1), "by bytes", 0);
}

static void split_at_every_position(void **state) {
    (void)state;
    for (size_t i = 0; i < N_CASES; i++) {
        size_t len = case_len(&cases[i]);
        for (size_t cut = 1; cut < len; cut++)
            check(&cases[i], feed(cases[i].text, len, cut, len), "cut at", cut);
    }
}

/* What is pipelined behind a request changes nothing about it. */
static void followed_by_another(void **state) {
    (void)state;
    for (size_t i = 0; i < N_CASES; i++) {
        size_t len = case_len(&cases[i]);
        if (cases[i].expected == MORE)
            continue;
        char *text = append(NULL, 0, cases[i].text, len);
        text = append(text, len, GH "\r\n\0", sizeof(GH "\r\n\0") - 1);
        check(&cases[i], feed(text, len + sizeof(GH "\r\n\0") - 1, len + 5, 1), "followed", 0);
        free(text);
    }
}

static void names_are_unique(void **state) {
    (void)state;
    for (size_t i = 0; i < N_CASES; i++)
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(cases[i].name, cases[k].name);
}

/* The answer to a HEAD has no content even when the request is refused half read. */
static void head_is_seen_in_refusals(void **state) {
    static const char *const texts[] = {"HEAD / HTTP/1.1\r\n\r\n", "\r\nHEAD / HTTP/3.0\r\n\r\n",
                                        "HEAD  / HTTP/1.1\r\n\r\n",
                                        "HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: 65\r\n\r\n"};
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct outcome o = feed(texts[i], strlen(texts[i]), 1, 1);
        assert_true(o.result == HTTP_BAD && o.head);
    }
    assert_false(feed(G "\r\n", strlen(G "\r\n"), 1, 1).head);
}

static void meaning(void **state) {
    (void)state;
    const char text[] =
        "POST /a/b?c=d HTTP/1.1\r\nhOST: x\r\nConnection: a, Close\r\nContent-Type:  text/x \r\n"
        "Expect: 100-Continue\r\nContent-Length: 1\r\n\r\n";
    struct http_request req;
    struct http_progress p = {0};
    struct http_refusal bad;
    assert_int_equal(http_head_parse(&p, text, sizeof text - 1, &req, &bad), HTTP_DONE);
    assert_true(req.method == HTTP_POST && str_is(req.path, "/a/b") && str_is(req.query, "c=d"));
    assert_true(str_is(req.content_type, "text/x") && req.expects && !req.keep_alive);
}

/* Nobody waits for a 100 before content that does not exist. */
static void expecting_without_content(void **state) {
    (void)state;
    const char text[] = "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
                        "Content-Length: 0\r\n\r\n";
    struct http_request req;
    struct http_progress p = {0};
    struct http_refusal bad;
    assert_int_equal(http_head_parse(&p, text, sizeof text - 1, &req, &bad), HTTP_DONE);
    assert_false(req.expects);
}

/* ---- limits: the last size that is taken, and the first that is not ---- */

static struct outcome with_line_of(size_t bytes) {
    static char text[HTTP_HEAD_MAX * 2];
    const char before[] = "GET /", after[] = " HTTP/1.1";
    size_t fill = bytes - strlen(before) - strlen(after);
    size_t n = (size_t)sprintf(text, "%s", before);
    memset(text + n, 'a', fill);
    n += fill;
    n += (size_t)sprintf(text + n, "%s\r\n" H "\r\n", after);
    struct outcome o = feed(text, n, n, 1), slow = feed(text, n, 1, 1);
    assert_true(o.status == slow.status && o.result == slow.result);
    return o;
}

static void limit_of_the_request_line(void **state) {
    (void)state;
    assert_int_equal(with_line_of(HTTP_LINE_MAX).result, HTTP_DONE);
    assert_int_equal(with_line_of(HTTP_LINE_MAX + 1).status, 414);
    static char text[HTTP_LINE_MAX + 2];
    memset(text, 'a', sizeof text);
    assert_int_equal(feed(text, sizeof text, sizeof text, 1).status, 414);
}

static struct outcome with_head_of(size_t bytes) {
    static char text[HTTP_HEAD_MAX * 2];
    size_t n = (size_t)sprintf(text, GH "A: ");
    size_t fill = bytes - n - 4;
    memset(text + n, 'a', fill);
    n += fill;
    n += (size_t)sprintf(text + n, "\r\n\r\n");
    struct outcome o = feed(text, n, n, 1), slow = feed(text, n, HTTP_HEAD_MAX - 40, 1);
    assert_true(o.status == slow.status && o.result == slow.result);
    return o;
}

static void limit_of_the_head(void **state) {
    (void)state;
    assert_int_equal(with_head_of(HTTP_HEAD_MAX).result, HTTP_DONE);
    assert_int_equal(with_head_of(HTTP_HEAD_MAX + 1).status, 431);
}

static struct outcome with_fields(int count) {
    static char text[HTTP_HEAD_MAX];
    size_t n = (size_t)sprintf(text, G);
    for (int i = 0; i < count; i++)
        n += (size_t)sprintf(text + n, i ? "A: b\r\n" : H);
    n += (size_t)sprintf(text + n, "\r\n");
    struct outcome o = feed(text, n, n, 1), slow = feed(text, n, 1, 1);
    assert_true(o.status == slow.status && o.result == slow.result);
    return o;
}

static void limit_of_fields(void **state) {
    (void)state;
    assert_int_equal(with_fields(HTTP_FIELDS_MAX).result, HTTP_DONE);
    assert_int_equal(with_fields(HTTP_FIELDS_MAX + 1).status, 431);
}

/* Extensions count over all chunks, so that many short ones gain nothing. */
static void limit_of_extensions(void **state) {
    static char text[4096];
    (void)state;
    size_t n = (size_t)sprintf(text, P TE);
    for (int i = 0; i < 40; i++)
        n += (size_t)sprintf(text + n, "1;abcdefgh\r\nx\r\n");
    assert_int_equal(feed(text, n, n, 1).status, 400);
    assert_int_equal(feed(text, n, 1, 1).status, 400);
}

static void limit_of_trailers(void **state) {
    static char text[HTTP_TRAILER_MAX * 2];
    (void)state;
    size_t n = (size_t)sprintf(text, P TE "0\r\n");
    while (n < HTTP_TRAILER_MAX + 200)
        n += (size_t)sprintf(text + n, "A: b\r\n");
    assert_int_equal(feed(text, n, n, 1).status, 431);
    assert_int_equal(feed(text, n, 1, 1).status, 431);
}

/* ---- paths and forms ---- */

static void paths(void **state) {
    (void)state;
    assert_true(http_path_is(str_view("/health"), "/health"));
    assert_true(http_path_is(str_view("/%68ealt%68"), "/health"));
    assert_true(http_path_is(str_view("/post%5fsentence"), "/post_sentence"));
    assert_true(http_path_is(str_view("/post%5Fsentence"), "/post_sentence"));
    assert_false(http_path_is(str_view("%2Fhealth"), "/health"));
    assert_false(http_path_is(str_view("/health%00"), "/health"));
    assert_false(http_path_is(str_view("/health/"), "/health"));
    assert_false(http_path_is(str_view("/healt"), "/health"));
    assert_false(http_path_is(str_view("/Health"), "/health"));
    assert_false(http_path_is(str_view("/%"), "/"));
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
        cmocka_unit_test(whole),
        cmocka_unit_test(byte_by_byte),
        cmocka_unit_test(split_at_every_position),
        cmocka_unit_test(followed_by_another),
        cmocka_unit_test(names_are_unique),
        cmocka_unit_test(head_is_seen_in_refusals),
        cmocka_unit_test(meaning),
        cmocka_unit_test(expecting_without_content),
        cmocka_unit_test(limit_of_the_request_line),
        cmocka_unit_test(limit_of_the_head),
        cmocka_unit_test(limit_of_fields),
        cmocka_unit_test(limit_of_extensions),
        cmocka_unit_test(limit_of_trailers),
        cmocka_unit_test(paths),
        cmocka_unit_test(forms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
