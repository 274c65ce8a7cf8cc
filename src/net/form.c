#include "net/form.h"

#include <string.h>
#include <yyjson.h>

static void set_value(struct form_field *f, struct str_view v) {
    f->times++;
    if (str_copy(f->value, sizeof f->value, v) < 0)
        f->malformed = true;
}

static void reset(struct form_field *fields, size_t n) {
    for (size_t i = 0; i < n; i++) {
        fields[i].value[0] = '\0';
        fields[i].times = 0;
        fields[i].malformed = false;
    }
}

static void read_pair(struct str_view pair, struct form_field *fields, size_t n) {
    char name[FORM_VALUE_BYTES], value[FORM_VALUE_BYTES];
    size_t name_len, value_len;
    const char *eq = pair.len ? memchr(pair.ptr, '=', pair.len) : NULL;
    size_t cut = eq ? (size_t)(eq - pair.ptr) : pair.len;
    if (str_form_decode((struct str_view){pair.ptr, cut}, name, sizeof name, &name_len) < 0)
        return; /* cannot be one of ours */
    for (size_t i = 0; i < n; i++) {
        if (!str_is((struct str_view){name, name_len}, fields[i].name))
            continue;
        struct str_view raw = {pair.ptr + cut + (eq ? 1 : 0), pair.len - cut - (eq ? 1 : 0)};
        if (str_form_decode(raw, value, sizeof value, &value_len) < 0) {
            fields[i].times++;
            fields[i].malformed = true;
        } else {
            set_value(&fields[i], (struct str_view){value, value_len});
        }
    }
}

void form_read(struct str_view body, struct form_field *fields, size_t n) {
    reset(fields, n);
    while (body.len) {
        const char *amp = memchr(body.ptr, '&', body.len);
        size_t len = amp ? (size_t)(amp - body.ptr) : body.len;
        read_pair((struct str_view){body.ptr, len}, fields, n);
        body.ptr += len + (amp ? 1 : 0);
        body.len -= len + (amp ? 1 : 0);
    }
}

static void read_member(yyjson_val *key, yyjson_val *val, struct form_field *fields, size_t n) {
    struct str_view name = {yyjson_get_str(key), yyjson_get_len(key)};
    for (size_t i = 0; i < n; i++) {
        if (!str_is(name, fields[i].name))
            continue;
        if (yyjson_is_str(val)) {
            set_value(&fields[i], (struct str_view){yyjson_get_str(val), yyjson_get_len(val)});
        } else if (yyjson_is_raw(val)) {
            set_value(&fields[i], (struct str_view){yyjson_get_raw(val), yyjson_get_len(val)});
        } else {
            fields[i].times++;
            fields[i].malformed = true;
        }
    }
}

bool form_read_json(struct str_view body, struct form_field *fields, size_t n) {
    reset(fields, n);
    yyjson_doc *doc = yyjson_read_opts((char *)(uintptr_t)body.ptr, body.len,
                                       YYJSON_READ_NUMBER_AS_RAW, NULL, NULL);
    yyjson_val *root = yyjson_doc_get_root(doc);
    bool is_object = yyjson_is_obj(root);
    if (is_object) {
        yyjson_obj_iter it = yyjson_obj_iter_with(root);
        yyjson_val *key;
        while ((key = yyjson_obj_iter_next(&it)))
            read_member(key, yyjson_obj_iter_get_val(key), fields, n);
    }
    yyjson_doc_free(doc);
    return is_object;
}
