/* Bodies of a post, as a form and as JSON. */
#include <assert.h>
#include <string.h>

#include "net/form.h"

int LLVMFuzzerTestOneInput(const char *bytes, size_t len);

/* What was found is a string within its bounds, and is found again. */
static void check(const struct form_field *f, const struct form_field *again) {
    for (size_t i = 0; i < 2; i++) {
        assert(memchr(f[i].value, '\0', FORM_VALUE_BYTES));
        assert(f[i].times > 0 || (!f[i].malformed && !f[i].value[0]));
        assert(f[i].times == again[i].times && f[i].malformed == again[i].malformed);
        assert(strcmp(f[i].value, again[i].value) == 0);
    }
}

int LLVMFuzzerTestOneInput(const char *bytes, size_t len) {
    struct form_field f[] = {{.name = "cid"}, {.name = "count"}}, again[] = {f[0], f[1]};
    struct str_view body = {bytes, len};
    form_read(body, f, 2);
    form_read(body, again, 2);
    check(f, again);
    assert(form_read_json(body, f, 2) == form_read_json(body, again, 2));
    check(f, again);
    return 0;
}
