/*
 * http_chunked: the chunked transfer coding (RFC 9112, 7.1), decoded in place, byte by byte if need
 * be. Pure. Extensions and trailer fields are checked for their form and dropped.
 *
 * Zero the state, then http_chunked_read with the same buffer, each time with more bytes in it.
 */
#ifndef TIERD_NET_HTTP_CHUNKED_H
#define TIERD_NET_HTTP_CHUNKED_H

#include <stddef.h>
#include <stdint.h>

enum {
    HTTP_CHUNK_DIGITS_MAX = 16, /* of one chunk's size: 64 bits; past it 400 */
    HTTP_CHUNK_EXT_MAX = 256,   /* all extensions of a request; nobody uses any; past it 400 */
    HTTP_TRAILER_MAX = 2048,    /* all trailer fields of a request; past it 431 */
};

struct http_chunked {
    size_t in, out; /* read and written positions in the buffer */
    uint64_t left;  /* of this chunk */
    int state;
    size_t digits;         /* of this chunk's size */
    size_t extra, trailer; /* bytes of extensions and of trailer fields so far */
};

enum http_chunked_result {
    HTTP_CHUNKED_MORE,
    HTTP_CHUNKED_DONE, /* the request ends at `in` */
    HTTP_CHUNKED_MALFORMED,
    HTTP_CHUNKED_LARGE, /* more than `max` bytes of content */
    HTTP_CHUNKED_TRAILER_LARGE,
};

/* Decodes data[c->in .. len) to data[c->out ..); `begin` is where the content begins. */
enum http_chunked_result http_chunked_read(struct http_chunked *c, char *data, size_t len,
                                           size_t begin, size_t max);

#endif
