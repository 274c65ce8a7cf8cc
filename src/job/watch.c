#include "job/watch.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "job/keys.h"

/* ---- the scripts ---- */

/* tierd:trouble as elements {level, host, since, sentence}; what nobody speaks of any more is
 * dropped on the way. Needs watch. */
#define TROUBLES                                                                                   \
    "local function troubles()\n"                                                                  \
    "  local all, out = watch('HGETALL', 'tierd:trouble') or {}, {}\n"                             \
    "  for i = 1, #all, 2 do\n"                                                                    \
    "    local level, host = string.match(all[i], '^(.*)\\n(.*)$')\n"                              \
    "    local till, since, text = string.match(all[i + 1], '^(%d+) (%d+) (.*)$')\n"               \
    "    local gone = not level or not till or tonumber(till) < now\n"                             \
    "    if gone then watch('HDEL', 'tierd:trouble', all[i]) end\n"                                \
    "    if not gone and #out < 64 then out[#out + 1] = {level, host, since, text} end\n"          \
    "  end\n"                                                                                      \
    "  return out\n"                                                                               \
    "end\n"

/* Whatever people look at is shown as far as it can be read: what is not ours is as if it were not
 * there, and is named beside it (job/keys). */
#define NOW                                                                                        \
    KEYS_WATCH                                                                                     \
    "local t = redis.call('TIME')\n"                                                               \
    "local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"                                          \
    "local function whole(n) return string.format('%.0f', n) end\n" TROUBLES

static const char *const hello =
    /* ARGV: worker, how long it is alive */
    NOW "local began = string.match(watch('HGET', 'tierd:workers', ARGV[1]) or '', '%d+')\n"
        "watch('HSET', 'tierd:workers', ARGV[1],\n"
        "  (began or whole(now)) .. ' ' .. whole(now + ARGV[2]))\n"
        "return 0\n";

static const char *const looked =
    /* ARGV: host, how long it is believed, use, trouble, levels that are well. Since when a trouble
     * lasts is from its first mention, or before, as the looker says. */
    NOW "for level, used, free in string.gmatch(ARGV[3], '([^\\n]+)\\n(%d+) (%d+)\\n') do\n"
        "  watch('HSET', 'tierd:use', level, used .. ' ' .. free)\n"
        "end\n"
        "for level, age, text in string.gmatch(ARGV[4], '([^\\n]+)\\n(%d+) ([^\\n]*)\\n') do\n"
        "  local field = level .. '\\n' .. ARGV[1]\n"
        "  local since, old = string.match(watch('HGET', 'tierd:trouble', field) or '',\n"
        "    '^%d+ (%d+) (.*)$')\n"
        "  if old ~= text then since = whole(now - age) end\n"
        "  watch('HSET', 'tierd:trouble', field, whole(now + ARGV[2]) .. ' ' .. since .. ' ' .. "
        "text)\n"
        "end\n"
        "for level in string.gmatch(ARGV[5], '([^\\n]+)\\n') do\n"
        "  watch('HDEL', 'tierd:trouble', level .. '\\n' .. ARGV[1])\n"
        "end\n"
        "return 0\n";

static const char *const status =
    /* ARGV: most moves, most workers, events, errors. Those of the dead are dropped on the way. */
    NOW "local function list(...) return watch(...) or {} end\n"
        "local function count(...) return watch(...) or 0 end\n"
        "local moves, workers, running, alive = {}, {}, 0, 0\n"
        "local all = list('HGETALL', 'tierd:progress')\n"
        "for i = 1, #all, 2 do\n"
        "  local till = tonumber(string.match(all[i + 1], '^%d+ %d+ %d+ %d+ (%d+)') or 0)\n"
        "  if till < now then\n"
        "    watch('HDEL', 'tierd:progress', all[i])\n"
        "  else\n"
        "    running = running + 1\n"
        "    if running <= tonumber(ARGV[1]) then\n"
        "      local h = list('HMGET', 'tierd:job:' .. all[i], 'src', 'target', 'filename')\n"
        "      moves[running] = {all[i], all[i + 1], h[1] or '', h[2] or '', h[3] or ''}\n"
        "    end\n"
        "  end\n"
        "end\n"
        "all = list('HGETALL', 'tierd:workers')\n"
        "for i = 1, #all, 2 do\n"
        "  local till = tonumber(string.match(all[i + 1], '^%d+ (%d+)') or 0)\n"
        "  if till < now then\n"
        "    watch('HDEL', 'tierd:workers', all[i])\n"
        "  else\n"
        "    alive = alive + 1\n"
        "    if alive <= tonumber(ARGV[2]) then\n"
        "      workers[#workers + 1], workers[#workers + 2] = all[i], all[i + 1]\n"
        "    end\n"
        "  end\n"
        "end\n"
        "local gates, parked = {}, 0\n"
        "local function gate(name, till)\n"
        "  local n = count('ZCARD', 'tierd:parked:' .. name)\n"
        "  parked = parked + n\n"
        "  gates[#gates + 1] = {name, till, n, watch('HGET', 'tierd:full', name) or ''}\n"
        "end\n"
        "all = list('HGETALL', 'tierd:paused')\n"
        "for i = 1, #all, 2 do\n"
        "  gate(all[i], string.match(all[i + 1], '^%d+$') or '0')\n"
        "end\n"
        "for _, name in ipairs(list('SMEMBERS', 'tierd:routes')) do gate(name, '0') end\n"
        /* jobs that found no room for themselves: no gate, but why they wait. What is due for a
         * while is not known to wait for that any more */
        "all = list('HGETALL', 'tierd:short')\n"
        "for i = 1, #all, 2 do\n"
        "  local key = 'tierd:short:' .. all[i]\n"
        "  watch('ZREMRANGEBYSCORE', key, '-inf', whole(now - 60000))\n"
        "  local first = list('ZRANGE', key, 0, 0, 'WITHSCORES')\n"
        "  if not first[2] then watch('HDEL', 'tierd:short', all[i])\n"
        "  else\n"
        "    gates[#gates + 1] = {'@space:' .. all[i], first[2], count('ZCARD', key), all[i + 1]}\n"
        "  end\n"
        "end\n"
        "local first = list('ZRANGE', 'tierd:due', 0, 0, 'WITHSCORES')\n"
        "local ready = count('ZCOUNT', 'tierd:due', '-inf', whole(now))\n"
        "local known = count('ZCARD', 'tierd:due')\n"
        "return {whole(now), running, alive, ready, math.max(0, known - ready - running), parked,\n"
        "  count('ZCARD', 'tierd:dead'), count('ZCARD', 'tierd:conflict'),\n"
        "  first[2] and tonumber(first[2]) < now and whole(math.min(now, now - first[2])) or '0',\n"
        "  moves, workers, gates, list('HGETALL', 'tierd:stats'),\n"
        "  list('HGETALL', 'tierd:rates'), list('HGETALL', 'tierd:use'),\n"
        "  list('XREVRANGE', 'tierd:events', '+', '-', 'COUNT', ARGV[3]),\n"
        "  list('XREVRANGE', 'tierd:errors', '+', '-', 'COUNT', ARGV[4]), troubles()}\n";

static const char *const explain =
    /* KEYS[1]: cid. Its events are answered as those of a stream are. */
    NOW "local cid = KEYS[1]\n"
        "local job, lock = 'tierd:job:' .. cid, 'lock:' .. cid\n"
        "local events, amiss = {}, {}\n"
        "for i, line in ipairs(watch('LRANGE', 'tierd:log:' .. cid, 0, 9) or {}) do\n"
        "  local at, rest = string.match(line, '^(%d*)%z?(.*)$')\n"
        "  local e = {'cid', cid, 'what'}\n"
        "  for field in string.gmatch(rest .. '\\0', '(%Z*)%z') do e[#e + 1] = field end\n"
        "  events[i] = {at .. '-0', e}\n"
        "end\n"
        "local function hold(key, type, want)\n"
        "  local is = redis.call('TYPE', key).ok\n"
        "  if is ~= 'none' and is ~= type then amiss[#amiss + 1] = {'watch', key, is, want} end\n"
        "end\n"
        "hold(cid, 'string', 'job')\n"
        "hold(job, 'hash', 'hash')\n"
        "hold(lock, 'string', 'string')\n"
        "local json = watch('GETRANGE', cid, '0', '" JSON_BYTES "') or ''\n"
        "if #json > " JSON_BYTES " or string.find(json, '%z') then\n"
        "  json = ''\n"
        "  amiss[#amiss + 1] = {'watch', cid, 'string', 'job'}\n"
        "end\n"
        "local gate = watch('HGET', job, 'gate')\n"
        "local full = gate and watch('HGET', 'tierd:full', gate)\n"
        "local alive = 0\n"
        "for _, w in ipairs(watch('HVALS', 'tierd:workers') or {}) do\n"
        "  if tonumber(string.match(w, '^%d+ (%d+)') or 0) >= now then alive = alive + 1 end\n"
        "end\n"
        "return {whole(now), json ~= '' and json,\n"
        "  watch('HGETALL', job) or {}, watch('GETRANGE', lock, '0', '256') or '',\n"
        "  redis.call('PTTL', lock), watch('ZSCORE', 'tierd:due', cid),\n"
        "  gate and watch('HGET', 'tierd:paused', gate) or false,\n"
        "  watch('HGET', 'tierd:progress', cid), watch('HGETALL', 'tierd:use') or {}, events,\n"
        "  alive, amiss, full or '', troubles()}\n";

static const char *const retry =
    /* KEYS[1]: cid. The head of the JSON ends where the worker's name begins; text inside of it
     * has its quotes escaped, so the first match is the key. */
    NOW
    "local cid = KEYS[1]\n"
    "local job = 'tierd:job:' .. cid\n" WATCH_NOTE
    "local h = redis.call('HMGET', job, 'state', 'head', 'gate')\n"
    "if redis.call('EXISTS', 'lock:' .. cid) == 1 or h[1] == 'done' or h[1] == 'committed' then\n"
    "  return 'not now'\n"
    "end\n"
    "local stands = redis.pcall('GETRANGE', cid, '0', '" JSON_BYTES "')\n"
    "local ours = type(stands) == 'string' and #stands <= " JSON_BYTES "\n"
    "if not ours then stands = '' end\n"
    "local _, ends = string.find(stands, '\"worker_id\": ', 1, true)\n"
    "local failed = string.find(stands, ', \"error\": ', 1, true)\n"
    "local waits = ends and string.find(stands, '\"update\"', ends, true)\n"
    "if not h[1] and not failed and not waits then return 'no job' end\n"
    "redis.call('ZADD', 'tierd:due', whole(now), cid)\n" /* which may be refused: first */
    "local head = h[2] or failed and ends and string.sub(stands, 1, ends)\n"
    "if head and ours then redis.call('SET', cid, head .. 'null, \"status\": \"update\"}') end\n"
    "if h[1] then\n"
    "  redis.call('HDEL', job, 'error', 'attempts', 'crashes', 'waits', 'worker', 'gate')\n"
    "  if h[1] ~= 'cancelled' then redis.call('HSET', job, 'state', 'queued') end\n"
    "end\n"
    "if h[3] then watch('ZREM', 'tierd:parked:' .. h[3], cid) end\n"
    "watch('ZREM', 'tierd:dead', cid)\n"
    "watch('ZREM', 'tierd:conflict', cid)\n"
    "if watch('EXISTS', 'tierd:wake') == 0 then watch('LPUSH', 'tierd:wake', '1') end\n"
    "note(now, 'retry')\n"
    "return 'ok'\n";

static const char *const cancel =
    /* KEYS[1]: cid. ARGV: the JSON that was read, head, level, update_time, filename, ttl */
    NOW
    "local cid, head, level = KEYS[1], ARGV[2], ARGV[3]\n"
    "local job = 'tierd:job:' .. cid\n" WATCH_NOTE
    "local stands = watch('GETRANGE', cid, '0', '" JSON_BYTES "') or ''\n"
    "if stands ~= ARGV[1] then return 'changed' end\n"
    "local h = redis.call('HMGET', job, 'state', 'src', 'worker', 'gate')\n"
    "local state = h[1]\n"
    "if state == 'done' then return 'late' end\n"
    "if state == 'committed' or state == 'cancelled' then return 'nothing' end\n"
    "if not state and not string.find(stands, '\"update\"', 1, true) and\n"
    "   not string.find(stands, ', \"error\": ', 1, true) then return 'nothing' end\n"
    "if state and h[2] ~= level then return 'changed' end\n"
    "local spare = false\n"
    "for _, f in ipairs(redis.call('HKEYS', job)) do\n"
    "  spare = spare or string.sub(f, 1, 6) == 'spare:'\n"
    "end\n"
    "local stops = state == 'claimed' and redis.call('EXISTS', 'lock:' .. cid) == 1\n"
    "if not stops and spare then redis.call('ZADD', 'tierd:due', whole(now), cid)\n"
    "elseif not stops then redis.call('ZREM', 'tierd:due', cid) end\n"
    "note(now, 'cancel')\n"
    "watch('ZREM', 'tierd:dead', cid)\n"
    "watch('ZREM', 'tierd:conflict', cid)\n"
    "if stops then\n"
    "  redis.call('HINCRBY', job, 'rev', 1)\n"
    "  redis.call('HSET', job, 'target', level, 'head', head)\n"
    "  redis.call('SET', cid, head .. '\"' .. (h[3] or '') .. '\", \"status\": \"done\"}')\n"
    "  return 'stops'\n"
    "end\n"
    "redis.call('SET', cid, head .. 'null, \"status\": \"done\"}')\n"
    "if h[4] then watch('ZREM', 'tierd:parked:' .. h[4], cid) end\n"
    "if not spare then\n"
    "  redis.call('DEL', job)\n"
    "  if tonumber(ARGV[6]) > 0 then redis.call('PEXPIRE', cid, ARGV[6]) end\n"
    "  return 'ok'\n"
    "end\n"
    "redis.call('HINCRBY', job, 'rev', 1)\n"
    "redis.call('HDEL', job, 'error', 'attempts', 'crashes', 'waits', 'worker', 'gate')\n"
    "redis.call('HSET', job, 'state', 'cancelled', 'head', head, 'src', level, 'target', level,\n"
    "  'seen', ARGV[4], 'filename', ARGV[5])\n"
    "if watch('EXISTS', 'tierd:wake') == 0 then watch('LPUSH', 'tierd:wake', '1') end\n"
    "return 'ok'\n";

const char *watch_script(enum queue_script script) {
    switch (script) {
    case QUEUE_HELLO:
        return hello;
    case QUEUE_LOOKED:
        return looked;
    case QUEUE_STATUS:
        return status;
    case QUEUE_EXPLAIN:
        return explain;
    case QUEUE_RETRY:
        return retry;
    case QUEUE_CANCEL:
        return cancel;
    case QUEUE_KEYS:
        return keys_script();
    default:
        return "return nil";
    }
}

/* ---- workers ---- */

/* Runs a script that answers nothing of interest. 0 or -errno. */
static int tell(struct queue *q, struct redis *r, enum queue_script script, const char *key,
                const struct str_view *args, size_t n) {
    struct str_view k = str_view(key);
    redis_reply *reply;
    int rc = redis_eval(r, &q->scripts[script], &k, 1, args, n, &reply);
    if (rc == 0)
        redis_reply_free(reply);
    return rc;
}

int watch_hello(struct queue *q, struct redis *r, const char *worker_id, int64_t alive_ms) {
    char ms[JOB_CID_DIGITS];
    struct str_view args[] = {str_view(worker_id), str_from_u64(ms, (uint64_t)alive_ms)};
    return tell(q, r, QUEUE_HELLO, "tierd:workers", args, 2);
}

int watch_looked(struct queue *q, struct redis *r, const char *looker_id, int64_t holds_ms,
                 const struct watch_look *look) {
    char ms[JOB_CID_DIGITS];
    struct str_view args[] = {{looker_id, strcspn(looker_id, ".")},
                              str_from_u64(ms, (uint64_t)holds_ms),
                              buf_view(&look->use),
                              buf_view(&look->trouble),
                              buf_view(&look->well)};
    return tell(q, r, QUEUE_LOOKED, "tierd:use", args, 5);
}

void watch_bye(struct redis *r, const char *worker_id) {
    struct str_view args[] = {str_view("HDEL"), str_view("tierd:workers"), str_view(worker_id)};
    redis_reply *reply;
    if (redis_call(r, args, 3, &reply) == 0) /* else it is found out within ALIVE_MS */
        redis_reply_free(reply);
}

int watch_reconnected(struct redis *r, const char *server) {
    char name[32];
    struct str_view args[] = {str_view("HINCRBY"), str_view("tierd:stats"), str_view(name),
                              str_view("1")};
    redis_reply *reply;
    snprintf(name, sizeof name, "reconnects:%s", server);
    args[2] = str_view(name);
    int rc = redis_call(r, args, 4, &reply);
    if (rc == 0)
        redis_reply_free(reply);
    return rc;
}

/* ---- reading ---- */

struct limits {
    char n[4][JOB_CID_DIGITS];
    struct str_view args[4];
};

static void set_limits(struct limits *l) {
    const uint64_t most[] = {WATCH_MOVES_MAX, WATCH_WORKERS_MAX, WATCH_EVENTS, WATCH_ERRORS};
    for (size_t i = 0; i < 4; i++)
        l->args[i] = str_from_u64(l->n[i], most[i]);
}

int watch_status(struct queue *q, struct redis *r, redis_reply **reply) {
    struct limits l = {0};
    struct str_view key = str_view("tierd:due");
    set_limits(&l);
    return redis_eval(r, &q->scripts[QUEUE_STATUS], &key, 1, l.args, 4, reply);
}

int watch_status_async(struct queue *q, struct redis_async *r, redis_done_fn *done, void *ctx) {
    struct limits l = {0};
    struct str_view key = str_view("tierd:due");
    set_limits(&l);
    return redis_async_eval(r, &q->scripts[QUEUE_STATUS], &key, 1, l.args, 4, done, ctx);
}

int watch_explain(struct queue *q, struct redis *r, uint64_t cid, redis_reply **reply) {
    char text[JOB_CID_DIGITS];
    struct str_view key = str_from_u64(text, cid);
    return redis_eval(r, &q->scripts[QUEUE_EXPLAIN], &key, 1, NULL, 0, reply);
}

int watch_explain_async(struct queue *q, struct redis_async *r, uint64_t cid, redis_done_fn *done,
                        void *ctx) {
    char text[JOB_CID_DIGITS];
    struct str_view key = str_from_u64(text, cid);
    return redis_async_eval(r, &q->scripts[QUEUE_EXPLAIN], &key, 1, NULL, 0, done, ctx);
}

int watch_gates(struct redis *r, redis_reply **reply) {
    struct str_view args[] = {str_view("HKEYS"), str_view("tierd:paused")};
    return redis_call(r, args, 2, reply);
}

/* ---- the operator's hand ---- */

int watch_retry(struct queue *q, struct redis *r, uint64_t cid, enum watch_retried *how) {
    char text[JOB_CID_DIGITS];
    struct str_view key = str_from_u64(text, cid);
    redis_reply *reply;
    int rc = redis_eval(r, &q->scripts[QUEUE_RETRY], &key, 1, NULL, 0, &reply);
    if (rc < 0)
        return rc;
    struct str_view said = redis_text(reply);
    *how = str_is(said, "ok")        ? WATCH_RETRIED
           : str_is(said, "not now") ? WATCH_NOT_NOW
                                     : WATCH_NO_JOB;
    redis_reply_free(reply);
    return 0;
}

int watch_cancel(struct queue *q, struct redis *r, const struct job *stay, const char *seen,
                 struct str_view read_json, enum watch_cancelled *how) {
    static const struct {
        const char *said;
        enum watch_cancelled how;
    } answers[] = {{"ok", WATCH_CANCELLED},
                   {"stops", WATCH_STOPS},
                   {"late", WATCH_TOO_LATE},
                   {"nothing", WATCH_NOTHING}};
    char text[JOB_CID_DIGITS], ttl[JOB_CID_DIGITS];
    struct str_view key = str_from_u64(text, stay->cid);
    redis_reply *reply;
    struct buf head;
    buf_init(&head, JOB_JSON_BYTES);
    job_write_head(&head, stay);
    struct str_view args[] = {
        read_json,      buf_view(&head),          str_view(stay->db_level),
        str_view(seen), str_view(stay->filename), str_from_u64(ttl, (uint64_t)q->done_ttl_ms)};
    int rc = head.failed ? -EINVAL
                         : redis_eval(r, &q->scripts[QUEUE_CANCEL], &key, 1, args,
                                      sizeof args / sizeof *args, &reply);
    buf_release(&head);
    if (rc < 0)
        return rc;
    *how = WATCH_CHANGED;
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++)
        if (str_is(redis_text(reply), answers[i].said))
            *how = answers[i].how;
    redis_reply_free(reply);
    return 0;
}

int watch_json(struct redis *r, uint64_t cid, char *json, size_t cap) {
    char text[JOB_CID_DIGITS];
    struct str_view args[] = {str_view("GETRANGE"), str_from_u64(text, cid), str_view("0"),
                              str_view(JSON_BYTES)};
    redis_reply *reply;
    int rc = redis_call(r, args, 4, &reply);
    if (rc < 0)
        return rc;
    if (str_copy(json, cap, redis_text(reply)) < 0)
        rc = -EPROTO;
    redis_reply_free(reply);
    return rc;
}

int watch_dead(struct redis *r, uint64_t *cids, size_t n, size_t skip) {
    char from[JOB_CID_DIGITS], to[JOB_CID_DIGITS];
    struct str_view args[] = {str_view("ZRANGE"), str_view("tierd:dead"), str_from_u64(from, skip),
                              str_from_u64(to, skip + n - 1)};
    redis_reply *reply;
    int rc = redis_call(r, args, 4, &reply);
    if (rc < 0)
        return rc;
    int found = 0;
    for (size_t i = 0; i < redis_len(reply) && (size_t)found < n; i++)
        if (job_cid_parse(redis_text(redis_at(reply, i)), &cids[found]) == 0)
            found++;
    redis_reply_free(reply);
    return found;
}

int64_t watch_dead_count(struct redis *r) {
    struct str_view args[] = {str_view("ZCARD"), str_view("tierd:dead")};
    redis_reply *reply;
    int rc = redis_call(r, args, 2, &reply);
    if (rc < 0)
        return rc;
    int64_t n = redis_int(reply);
    redis_reply_free(reply);
    return n;
}

int watch_note(struct redis *r, uint64_t cid, const char *what, const char *about) {
    char text[JOB_CID_DIGITS];
    struct str_view args[] = {str_view("XADD"), str_view("tierd:events"), str_view("MAXLEN"),
                              str_view("~"),    str_view("1000"),         str_view("*"),
                              str_view("cid"),  str_from_u64(text, cid),  str_view("what"),
                              str_view(what),   str_view("about"),        str_view(about)};
    redis_reply *reply;
    int rc = redis_call(r, args, sizeof args / sizeof *args, &reply);
    if (rc == 0)
        redis_reply_free(reply);
    return rc;
}
