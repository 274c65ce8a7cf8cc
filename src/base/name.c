#include "base/name.h"

#include <string.h>

static enum name_check check_component(const char *c, size_t len) {
    if (len == 0)
        return NAME_EMPTY_COMPONENT;
    if (len > NAME_COMPONENT_MAX)
        return NAME_TOO_LONG;
    if ((len == 1 && c[0] == '.') || (len == 2 && c[0] == '.' && c[1] == '.'))
        return NAME_DOTS;
    size_t prefix = strlen(NAME_PRIVATE_PREFIX);
    if (len >= prefix && memcmp(c, NAME_PRIVATE_PREFIX, prefix) == 0)
        return NAME_PRIVATE;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)c[i] < 0x20 || c[i] == 0x7f)
            return NAME_CONTROL;
    return NAME_OK;
}

enum name_check name_check(const char *name) {
    size_t len = strlen(name);
    if (len == 0)
        return NAME_EMPTY;
    if (name[0] == '/')
        return NAME_ABSOLUTE;
    if (len > NAME_PATH_MAX)
        return NAME_TOO_LONG;
    for (const char *c = name;; c++) {
        size_t n = strcspn(c, "/");
        enum name_check why = check_component(c, n);
        if (why != NAME_OK)
            return why;
        c += n;
        if (!*c)
            return NAME_OK;
    }
}

const char *name_check_text(enum name_check why) {
    static const char *const texts[] = {
        "a good name",
        "the name is empty",
        "the name is an absolute path",
        "the name has an empty component",
        "the name has a component '.' or '..'",
        "the name holds a control character",
        "the name has a component that begins with '" NAME_PRIVATE_PREFIX "'",
        "the name or one of its components is too long",
    };
    return texts[why];
}
