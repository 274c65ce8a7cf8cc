#include "job/keys.h"

#include <stdio.h>
#include <string.h>

/*
 * An element is {'stops' or 'watch', key, type, wanted type}, or {'stops', command, the server's
 * words} for a command that our user may not use. redis.acl_check_cmd came with Redis 7.0; before,
 * the first refusal tells. A command that it refuses is then called for the server's words:
 * refused, it has no effect.
 */
static const char *const script = KEYS_WATCH
    "local out = {}\n"
    "local function tell(...) if #out < 32 then out[#out + 1] = {...} end end\n"
    "local function hold(grade, key, want)\n"
    "  local is = redis.call('TYPE', key).ok\n"
    "  if is == 'none' or is == want then return is == want end\n"
    "  tell(grade, key, is, want)\n"
    "end\n"
    "local function number(grade, key)\n"
    "  if hold(grade, key, 'string') and (redis.call('STRLEN', key) > 18 or\n"
    "      not string.find(redis.call('GET', key), '^%d+$')) then\n"
    "    tell(grade, key, 'text', 'number')\n"
    "  end\n"
    "end\n"
    "local function may(...)\n"
    "  if not redis.acl_check_cmd or redis.acl_check_cmd(...) then return end\n"
    "  local blocks = (...) == 'BLPOP'\n" /* which a script may not call in any case */
    "  local said = not blocks and redis.pcall(...)\n"
    "  tell('stops', table.concat({...}, ' '), type(said) == 'table' and said.err or 'NOPERM')\n"
    "end\n"
    "for line in string.gmatch([[\n"
    "  PING|TIME|TYPE 1|EXISTS 1|DEL tierd:job:1|PTTL lock:1|PEXPIRE 1 1|SCAN 0|GET 1|MGET 1\n"
    "  GETRANGE 1 0 0|STRLEN 1|SET 1 x|MSET 1 x|SET lock:1 x|INCR tierd:token\n"
    "  HGET tierd:job:1 x|HMGET tierd:job:1 x|HGETALL tierd:job:1|HKEYS tierd:job:1\n"
    "  HVALS tierd:workers|HLEN tierd:foreign|HEXISTS tierd:job:1 x|HSET tierd:job:1 x x\n"
    "  HSETNX tierd:job:1 x x|HDEL tierd:job:1 x|HINCRBY tierd:job:1 x 1\n"
    "  ZADD tierd:due 1 1|ZREM tierd:due 1|ZCARD tierd:due|ZCOUNT tierd:due 1 1\n"
    "  ZSCORE tierd:due 1|ZRANGE tierd:due 0 0|ZRANGEBYSCORE tierd:due 1 1\n"
    "  ZREMRANGEBYSCORE tierd:active:x 1 1|ZPOPMIN tierd:parked:x\n"
    "  SADD tierd:routes x|SREM tierd:routes x|SMEMBERS tierd:routes\n"
    "  LPUSH tierd:wake 1|LTRIM tierd:wake 0 0|BLPOP tierd:wake 0|LRANGE tierd:log:1 0 0\n"
    "  RPOP tierd:log:1|XADD tierd:events * x x|XREVRANGE tierd:events + -\n"
    "]], '[^|\\n]+') do\n"
    "  local words = {}\n"
    "  for w in string.gmatch(line, '%S+') do words[#words + 1] = w end\n"
    "  if words[1] then may(unpack(words)) end\n"
    "end\n"
    "hold('stops', 'tierd:due', 'zset')\n"
    "local gates = hold('stops', 'tierd:paused', 'hash')\n"
    "local routes = hold('stops', 'tierd:routes', 'set')\n"
    "number('stops', 'tierd:token')\n"
    "hold('stops', 'tierd:levels', 'hash')\n"
    "number('watch', 'tierd:clock')\n"
    "hold('watch', 'tierd:wake', 'list')\n"
    "hold('watch', 'tierd:scan', 'string')\n"
    "hold('watch', 'tierd:dead', 'zset')\n"
    "hold('watch', 'tierd:conflict', 'zset')\n"
    "hold('watch', 'tierd:progress', 'hash')\n"
    "hold('watch', 'tierd:events', 'stream')\n"
    "hold('watch', 'tierd:errors', 'stream')\n"
    "hold('watch', 'tierd:stats', 'hash')\n"
    "hold('watch', 'tierd:rates', 'hash')\n"
    "hold('watch', 'tierd:full', 'hash')\n"
    "hold('watch', 'tierd:short', 'hash')\n"
    "hold('watch', 'tierd:workers', 'hash')\n"
    "hold('watch', 'tierd:trouble', 'hash')\n"
    "local use = hold('watch', 'tierd:use', 'hash')\n"
    /* those with the name of a level, a gate or a host in theirs */
    "local seen = {}\n"
    "local function once(key, want)\n"
    "  if #out < 32 and not seen[key] then hold('watch', key, want) end\n"
    "  seen[key] = true\n"
    "end\n"
    "for _, name in ipairs(use and redis.call('HKEYS', 'tierd:use') or {}) do\n"
    "  once('tierd:parked:' .. name, 'zset')\n"
    "  once('tierd:parked:@busy:' .. name, 'zset')\n"
    "  once('tierd:active:' .. name, 'zset')\n"
    "  once('tierd:short:' .. name, 'zset')\n"
    "end\n"
    "once('tierd:parked:@all', 'zset')\n"
    "once('tierd:parked:@window', 'zset')\n"
    "for _, name in ipairs(gates and redis.call('HKEYS', 'tierd:paused') or {}) do\n"
    "  once('tierd:parked:' .. name, 'zset')\n"
    "end\n"
    "for _, name in ipairs(routes and redis.call('SMEMBERS', 'tierd:routes') or {}) do\n"
    "  once('tierd:parked:' .. name, 'zset')\n"
    "end\n"
    /* and those that scripts met; one that is mended may be what its content waited for */
    "local met = hold('watch', 'tierd:foreign', 'hash') and redis.call('HGETALL', "
    "'tierd:foreign') or {}\n"
    "for i = 1, #met, 2 do\n"
    "  local key, want = met[i], met[i + 1]\n"
    "  local is = redis.call('TYPE', key).ok\n"
    "  local large = want == 'job' and is == 'string' and\n"
    "    (redis.call('STRLEN', key) > " JSON_BYTES " or\n"
    "     string.find(redis.call('GET', key), '%z') ~= nil)\n"
    "  if large or (is ~= 'none' and is ~= want and not (want == 'job' and is == 'string')) then\n"
    "    tell('watch', key, is, want)\n"
    "  else\n"
    "    watch('HDEL', 'tierd:foreign', key)\n"
    "    local t = redis.call('TIME')\n"
    "    watch('ZADD', 'tierd:due', 'XX',\n"
    "      string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000)), string.match(key, "
    "'%d+$') or key)\n"
    "    if watch('EXISTS', 'tierd:wake') == 0 then watch('LPUSH', 'tierd:wake', '1') end\n"
    "  end\n"
    "end\n"
    "return out\n";

const char *keys_script(void) {
    return script;
}

/* What a type of Redis is called; others are called as Redis does. */
static struct str_view type_words(struct str_view type) {
    return str_is(type, "zset") ? str_view("sorted set") : type;
}

#define NO_JOB "the key %.*s in redis holds something that is no job: rename or delete it"

void keys_no_job(char *out, size_t cap, uint64_t cid) {
    char text[STR_U64_BYTES];
    struct str_view key = str_from_u64(text, cid);
    snprintf(out, cap, NO_JOB, STR_ARG(key));
}

void keys_sentence(char *out, size_t cap, const redis_reply *one) {
    struct str_view key = redis_text(redis_at(one, 1));
    struct str_view is = type_words(redis_text(redis_at(one, 2)));
    struct str_view want = type_words(redis_text(redis_at(one, 3)));
    if (redis_len(one) < 4)
        snprintf(out, cap, "redis refuses '%.*s': %.*s", STR_ARG(key), STR_ARG(is));
    else if (str_is(want, "job"))
        snprintf(out, cap, NO_JOB, STR_ARG(key));
    else
        snprintf(out, cap,
                 "the key %.*s in redis holds a %.*s where tierd keeps a %.*s: rename or delete it",
                 STR_ARG(key), STR_ARG(is), STR_ARG(want));
}

void keys_read(const redis_reply *list, struct keys_amiss *out) {
    out->n = redis_len(list) < KEYS_MOST ? redis_len(list) : KEYS_MOST;
    for (size_t i = 0; i < out->n; i++) {
        const redis_reply *one = redis_at(list, i);
        out->each[i].stops = str_is(redis_text(redis_at(one, 0)), "stops");
        keys_sentence(out->each[i].text, sizeof out->each[i].text, one);
    }
}

int keys_look(struct queue *q, struct redis *r, struct keys_amiss *out) {
    redis_reply *reply;
    int rc = redis_eval(r, &q->scripts[QUEUE_KEYS], NULL, 0, NULL, 0, &reply);
    if (rc < 0)
        return rc;
    keys_read(reply, out);
    redis_reply_free(reply);
    return 0;
}

int keys_look_async(struct queue *q, struct redis_async *r, redis_done_fn *done, void *ctx) {
    return redis_async_eval(r, &q->scripts[QUEUE_KEYS], NULL, 0, NULL, 0, done, ctx);
}

void keys_only(struct keys_amiss *out, const char *text) {
    out->n = 1;
    out->each[0].stops = true;
    snprintf(out->each[0].text, sizeof out->each[0].text, "%s", text);
}

const char *keys_stopping(const struct keys_amiss *a) {
    for (size_t i = 0; i < a->n; i++)
        if (a->each[i].stops)
            return a->each[i].text;
    return NULL;
}

static bool has(const struct keys_amiss *a, const char *text) {
    for (size_t i = 0; i < a->n; i++)
        if (strcmp(a->each[i].text, text) == 0)
            return true;
    return false;
}

void keys_tell(struct keys_amiss *told, const struct keys_amiss *now,
               void (*say)(void *ctx, const char *text, bool stops, bool mended), void *ctx) {
    for (size_t i = 0; i < now->n; i++)
        if (!has(told, now->each[i].text))
            say(ctx, now->each[i].text, now->each[i].stops, false);
    for (size_t i = 0; i < told->n; i++)
        if (!has(now, told->each[i].text))
            say(ctx, told->each[i].text, told->each[i].stops, true);
    *told = *now;
}
