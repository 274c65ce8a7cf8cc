/*
 * form: the two parameters of a post, from a form-urlencoded or a JSON body. Pure.
 */
#ifndef TIERD_NET_FORM_H
#define TIERD_NET_FORM_H

#include <stdbool.h>
#include <stddef.h>

#include "base/str.h"

enum {
    FORM_VALUE_BYTES = 64
}; /* two numbers of at most 20 digits; longer ones are refused anyway */

/* A named parameter to look for; `value` and `times` are filled in. */
struct form_field {
    const char *name;
    char value[FORM_VALUE_BYTES]; /* NUL-terminated */
    size_t times;                 /* how often it was given */
    bool malformed;               /* bad encoding, a NUL, too long, or neither string nor number */
};

/* application/x-www-form-urlencoded (WHATWG URL, 5). Other parameters are ignored. */
void form_read(struct str_view body, struct form_field *fields, size_t n);

/* A JSON object whose members are strings or numbers. False when it is not a JSON object. */
bool form_read_json(struct str_view body, struct form_field *fields, size_t n);

#endif
