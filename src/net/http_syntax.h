/*
 * http_syntax: the small grammars that HTTP's requests are made of (RFC 9110, 5.6 and 7.2; RFC
 * 3986, 2 and 3). Pure predicates over borrowed views.
 */
#ifndef TIERD_NET_HTTP_SYNTAX_H
#define TIERD_NET_HTTP_SYNTAX_H

#include <stdbool.h>

#include "base/str.h"

/* RFC 9110, 5.6.2: a byte of a token; a whole token, which is not empty. */
bool http_is_tchar(unsigned char c);
bool http_is_token(struct str_view v);

/* RFC 9110, 5.5: a byte that a field value may hold: blank, tab, visible, or obs-text. */
bool http_is_field_byte(unsigned char c);

/* Without the blanks and tabs around it. */
struct str_view http_trim(struct str_view v);

/* Takes what stands before `c` (or all) off the front of *rest. */
struct str_view http_take(struct str_view *rest, char c);

/*
 * The next member of a comma-separated list, trimmed; empty members are passed over (RFC 9110,
 * 5.6.1.2). False at the end.
 */
bool http_list_next(struct str_view *rest, struct str_view *member);

/*
 * RFC 9110, 7.2; RFC 3986, 3.2.2: a name, an IPv4 or a bracketed IP literal, and maybe a port of at
 * most 65535. An http URI has a host that is not empty (RFC 9110, 4.2.1) and no user (4.2.4).
 */
bool http_host_valid(struct str_view v);

/* RFC 3986, 3.3 and 3.4: bytes of a path (with `query`: of a query too), each '%' followed by two
 * hexadecimal digits. */
bool http_path_valid(struct str_view v, bool query);

/*
 * True when `path` names `name`, whose bytes are unreserved ones and '/'. A percent-encoded
 * unreserved byte is the same as the byte (RFC 3986, 6.2.2.2); an encoded '/' is not.
 */
bool http_path_is(struct str_view path, const char *name);

#endif
