/*
 * Any bytes as requests, one behind the other. Fed whole, byte by byte, and in pieces whose sizes
 * come from the input itself, they must give the same requests, verdicts and contents. Memory is
 * always exactly as large as what was received, so that a look too far is a finding.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "net/http_parse.h"

enum { BODY_MAX = 4096, REQUESTS_MAX = 16 };

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

struct verdict {
    enum http_result result;
    enum http_method method;
    int status;
    bool keep_alive, expects;
    size_t end; /* in the input */
    uint32_t path, query, type, body;
};

struct pieces {
    const uint8_t *seed; /* NULL: all at once */
    size_t len, at;
};

/* FNV-1a: content is compared by it. */
static uint32_t hash(struct str_view v) {
    uint32_t h = 2166136261U;
    for (size_t i = 0; i < v.len; i++)
        h = (h ^ (uint8_t)v.ptr[i]) * 16777619U;
    return h;
}

static size_t next_piece(struct pieces *p, size_t left) {
    if (!p->seed)
        return left;
    size_t n = p->len ? 1U + p->seed[p->at++ % p->len] % 61U : 1;
    return n < left ? n : left;
}

static char *append(char *data, size_t len, const uint8_t *more, size_t n) {
    char *grown = malloc(len + n);
    if (len)
        memcpy(grown, data, len);
    memcpy(grown + len, more, n);
    free(data);
    return grown;
}

static void check_request(const struct http_request *req, const char *data, size_t len) {
    const struct str_view *views[] = {&req->query, &req->content_type};
    assert(req->head_bytes <= len && req->head_bytes <= HTTP_HEAD_MAX);
    assert(req->path.len > 0);
    for (size_t i = 0; i < 2; i++)
        assert(views[i]->len == 0 ||
               (views[i]->ptr >= data && views[i]->ptr + views[i]->len <= data + req->head_bytes));
    assert(!(req->chunked && req->has_length));
    assert(!(req->minor_zero && (req->chunked || req->expects)));
}

/* One request of bytes[from ..]. */
static struct verdict one(const uint8_t *bytes, size_t from, size_t total, struct pieces *pieces) {
    struct http_progress p = {0};
    struct http_request req = {0};
    struct http_refusal bad = {0};
    struct verdict v = {.result = HTTP_MORE};
    char *data = NULL;
    size_t have = 0, sent = from, dropped = 0, body_len = 0, end = 0;
    bool head = false;
    while (v.result == HTTP_MORE && sent < total) {
        size_t n = next_piece(pieces, total - sent);
        data = append(data, have, bytes + sent, n);
        have += n;
        sent += n;
        if (!head) {
            v.result = http_head_parse(&p, data, have, &req, &bad);
            head = v.result == HTTP_DONE;
            if (head) {
                check_request(&req, data, have);
                v.path = hash(req.path);
                v.query = hash(req.query);
                v.type = hash(req.content_type);
            }
        }
        if (!head)
            continue;
        v.result = http_body_parse(&p, &req, data, have, BODY_MAX, &body_len, &end, &bad);
        if (v.result == HTTP_MORE) {
            size_t left = http_body_compact(&p, &req, data, have);
            assert(left <= have && left >= req.head_bytes);
            dropped += have - left;
            have = left;
        }
    }
    v.method = req.method;
    if (v.result == HTTP_BAD) {
        assert(bad.status >= 400 && bad.why);
        v.status = bad.status;
    } else if (v.result == HTTP_DONE) {
        assert(end <= have && req.head_bytes + body_len <= end && body_len <= BODY_MAX);
        v.status = req.refusal.status;
        v.keep_alive = req.keep_alive;
        v.expects = req.expects;
        v.end = from + end + dropped;
        v.body = hash((struct str_view){data + req.head_bytes, body_len});
    }
    free(data);
    return v;
}

static size_t all(const uint8_t *bytes, size_t len, struct pieces pieces, struct verdict *out) {
    size_t n = 0, from = 0;
    while (n < REQUESTS_MAX && from < len) {
        out[n] = one(bytes, from, len, &pieces);
        from = out[n].end;
        if (out[n++].result != HTTP_DONE)
            break;
    }
    return n;
}

static void same(const struct verdict *a, const struct verdict *b) {
    assert(a->result == b->result && a->status == b->status);
    if (a->result != HTTP_DONE)
        return;
    assert(a->method == b->method && a->keep_alive == b->keep_alive && a->expects == b->expects);
    assert(a->end == b->end && a->body == b->body);
    assert(a->path == b->path && a->query == b->query && a->type == b->type);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len) {
    struct verdict whole[REQUESTS_MAX], split[REQUESTS_MAX];
    const struct pieces ways[] = {{bytes, 0, 0}, {bytes, len, 0}, {bytes, len, len / 2}};
    size_t n = all(bytes, len, (struct pieces){NULL, 0, 0}, whole);
    for (size_t way = len > 512 ? 1 : 0; way < 3; way++) { /* by bytes only what is short */
        size_t m = all(bytes, len, ways[way], split);
        assert(n == m);
        for (size_t i = 0; i < n; i++)
            same(&whole[i], &split[i]);
    }
    return 0;
}
