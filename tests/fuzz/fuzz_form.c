/* Bodies of a post, as a form and as JSON. */
#include <assert.h>
#include <string.h>

#include "net/form.h"

int LLVMFuzzerTestOneInput(const char *bytes, size_t len);

int LLVMFuzzerTestOneInput(const char *bytes, size_t len) {
    struct form_field f[] = {{.name = "cid"}, {.name = "count"}};
    form_read((struct str_view){bytes, len}, f, 2);
    assert(strlen(f[0].value) < FORM_VALUE_BYTES);
    (void)form_read_json((struct str_view){bytes, len}, f, 2);
    assert(strlen(f[1].value) < FORM_VALUE_BYTES);
    return 0;
}
