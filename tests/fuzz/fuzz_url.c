/* URLs of the configuration: the parts, and what Redis, the database and the worker's client make
 * of them. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/url.h"
#include "net/http_client.h"
#include "store/server_url.h"

int LLVMFuzzerTestOneInput(const char *bytes, size_t len);

static void within(struct str_view v, const char *bytes, size_t len) {
    assert(v.len == 0 || (v.ptr >= bytes && v.ptr + v.len <= bytes + len));
}

static void parts(const char *bytes, size_t len) {
    struct url u;
    struct str_view v;
    char user[32], password[32];
    if (url_parse((struct str_view){bytes, len}, &u) < 0)
        return;
    assert(u.port >= 0 && u.port <= 65535 && u.scheme.len > 0);
    within(u.host, bytes, len);
    within(u.path, bytes, len);
    within(u.query, bytes, len);
    if (url_query(&u, "socket", &v))
        within(v, bytes, len);
    if (url_decode_user(&u, user, sizeof user, password, sizeof password) == 0)
        assert(strlen(user) <= u.user.len && strlen(password) <= u.password.len);
}

int LLVMFuzzerTestOneInput(const char *bytes, size_t len) {
    struct redis_url redis;
    struct db_url db;
    struct http_client *client;
    const char *why = NULL;
    parts(bytes, len);
    char *text = malloc(len + 1);
    memcpy(text, bytes, len);
    text[len] = '\0';
    if (redis_url_parse(text, &redis, &why) == 0)
        assert(redis.host[0] && redis.port >= 0 && redis.port <= 65535 && redis.db >= 0);
    else
        assert(why);
    if (db_url_parse(text, &db, &why) == 0)
        assert((db.host[0] || db.socket[0]) && db.name[0] && db.port > 0 && db.port <= 65535);
    else
        assert(why);
    if (http_client_new(text, &client) == 0)
        http_client_free(client);
    free(text);
    return 0;
}
