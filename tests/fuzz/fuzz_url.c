/* URLs of the configuration. */
#include <assert.h>

#include "base/url.h"

int LLVMFuzzerTestOneInput(const char *bytes, size_t len);

int LLVMFuzzerTestOneInput(const char *bytes, size_t len) {
    struct url u;
    struct str_view v;
    char user[32], password[32];
    if (url_parse((struct str_view){bytes, len}, &u) < 0)
        return 0;
    assert(u.port >= 0 && u.port <= 65535 && u.scheme.len > 0);
    (void)url_query(&u, "socket", &v);
    (void)url_decode_user(&u, user, sizeof user, password, sizeof password);
    return 0;
}
