#include "net/http_chunked.h"

#include <stdbool.h>
#include <string.h>

#include "net/http_syntax.h"

enum state {
    SIZE, /* the first digit, or a further one */
    EXT_BWS,
    EXT_NAME_START,
    EXT_NAME,
    EXT_NAME_BWS,
    EXT_VALUE_START,
    EXT_VALUE,
    EXT_QUOTED,
    EXT_QUOTED_PAIR,
    EXT_QUOTED_END,
    SIZE_LF,
    DATA,
    DATA_CR,
    DATA_LF,
    TRAILER_START,
    TRAILER_NAME,
    TRAILER_VALUE,
    TRAILER_LF,
    LAST_LF,
    BAD
};

static bool is_blank(unsigned char c) {
    return c == ' ' || c == '\t';
}

static int hex_value(unsigned char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* What may follow a size, a name or a value at once: an extension or the line's end. */
static enum state after_ext(unsigned char c) {
    return c == ';' ? EXT_NAME_START : c == '\r' ? SIZE_LF : BAD;
}

static enum state size_byte(struct http_chunked *c, unsigned char byte) {
    int digit = hex_value(byte);
    if (digit >= 0) {
        if (c->digits++ == HTTP_CHUNK_DIGITS_MAX)
            return BAD;
        c->left = c->left << 4 | (uint64_t)digit;
        return SIZE;
    }
    if (c->digits == 0)
        return BAD;
    return is_blank(byte) ? EXT_BWS : after_ext(byte);
}

/* RFC 9112, 7.1.1: *( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] ) */
static enum state ext_byte(enum state state, unsigned char c) {
    switch (state) {
    case EXT_BWS:
        return is_blank(c) ? EXT_BWS : c == ';' ? EXT_NAME_START : BAD;
    case EXT_NAME_START:
        return is_blank(c) ? EXT_NAME_START : http_is_tchar(c) ? EXT_NAME : BAD;
    case EXT_NAME:
        if (http_is_tchar(c))
            return EXT_NAME;
        return is_blank(c) ? EXT_NAME_BWS : c == '=' ? EXT_VALUE_START : after_ext(c);
    case EXT_NAME_BWS:
        if (is_blank(c))
            return EXT_NAME_BWS;
        return c == '=' ? EXT_VALUE_START : c == ';' ? EXT_NAME_START : BAD;
    case EXT_VALUE_START:
        if (is_blank(c))
            return EXT_VALUE_START;
        return c == '"' ? EXT_QUOTED : http_is_tchar(c) ? EXT_VALUE : BAD;
    case EXT_VALUE:
        if (http_is_tchar(c))
            return EXT_VALUE;
        return is_blank(c) ? EXT_BWS : after_ext(c);
    case EXT_QUOTED:
        if (c == '"')
            return EXT_QUOTED_END;
        return c == '\\' ? EXT_QUOTED_PAIR : http_is_field_byte(c) ? EXT_QUOTED : BAD;
    case EXT_QUOTED_PAIR:
        return http_is_field_byte(c) ? EXT_QUOTED : BAD;
    default: /* EXT_QUOTED_END */
        return is_blank(c) ? EXT_BWS : after_ext(c);
    }
}

static enum state trailer_byte(enum state state, unsigned char c) {
    switch (state) {
    case TRAILER_START: /* a blank here would be obs-fold */
        return c == '\r' ? LAST_LF : http_is_tchar(c) ? TRAILER_NAME : BAD;
    case TRAILER_NAME:
        return c == ':' ? TRAILER_VALUE : http_is_tchar(c) ? TRAILER_NAME : BAD;
    case TRAILER_VALUE:
        return c == '\r' ? TRAILER_LF : http_is_field_byte(c) ? TRAILER_VALUE : BAD;
    default: /* TRAILER_LF */
        return c == '\n' ? TRAILER_START : BAD;
    }
}

/* One byte that is no content. */
static enum state next_state(struct http_chunked *c, unsigned char byte) {
    enum state state = (enum state)c->state;
    switch (state) {
    case SIZE:
        return size_byte(c, byte);
    case SIZE_LF:
        return byte != '\n' ? BAD : c->left ? DATA : TRAILER_START;
    case DATA_CR:
        return byte == '\r' ? DATA_LF : BAD;
    case DATA_LF:
        c->digits = 0;
        return byte == '\n' ? SIZE : BAD;
    case TRAILER_START:
    case TRAILER_NAME:
    case TRAILER_VALUE:
    case TRAILER_LF:
        c->trailer++;
        return trailer_byte(state, byte);
    default:
        return c->extra++ < HTTP_CHUNK_EXT_MAX ? ext_byte(state, byte) : BAD;
    }
}

static void take_data(struct http_chunked *c, char *data, size_t len) {
    size_t n = len - c->in;
    if (n > c->left)
        n = (size_t)c->left;
    memmove(data + c->out, data + c->in, n);
    c->in += n;
    c->out += n;
    c->left -= n;
    if (c->left == 0)
        c->state = DATA_CR;
}

enum http_chunked_result http_chunked_read(struct http_chunked *c, char *data, size_t len,
                                           size_t begin, size_t max) {
    while (c->in < len) {
        if (c->state == DATA) {
            take_data(c, data, len);
            continue;
        }
        unsigned char byte = (unsigned char)data[c->in++];
        if (c->state == LAST_LF)
            return byte == '\n' ? HTTP_CHUNKED_DONE : HTTP_CHUNKED_MALFORMED;
        c->state = (int)next_state(c, byte);
        if (c->state == BAD)
            return HTTP_CHUNKED_MALFORMED;
        if (c->left > max - (c->out - begin) && c->state == SIZE_LF)
            return HTTP_CHUNKED_LARGE;
        if (c->trailer > HTTP_TRAILER_MAX)
            return HTTP_CHUNKED_TRAILER_LARGE;
    }
    return HTTP_CHUNKED_MORE;
}
