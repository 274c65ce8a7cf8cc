/* Requests in any bytes: whole and cut in two must give the same verdict. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "net/http_parse.h"

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t len);

static enum http_result parse(const unsigned char *bytes, size_t len, size_t cut, int *status) {
    struct http_progress p = {0};
    struct http_request req;
    const char *why = "";
    size_t body_len = 0, end = 0;
    enum http_result rc = HTTP_MORE;
    bool head = false;
    char *data = malloc(len + 1);
    memcpy(data, bytes, len);
    for (size_t n = cut;; n = len) {
        rc = head ? HTTP_DONE : http_head_parse(&p, data, n, &req, status, &why);
        if (rc == HTTP_DONE) {
            head = true;
            rc = http_body_parse(&p, &req, data, n, 4096, &body_len, &end, status, &why);
            assert(rc != HTTP_DONE ||
                   (end <= n && req.head_bytes + body_len <= end && body_len <= 4096));
        }
        if (rc != HTTP_MORE || n == len)
            break;
    }
    free(data);
    return rc;
}

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t len) {
    int whole = 0, split = 0;
    if (len == 0)
        return 0;
    enum http_result a = parse(bytes, len, len, &whole);
    enum http_result b = parse(bytes, len, bytes[len - 1] % len, &split);
    assert(a == b);
    return 0;
}
