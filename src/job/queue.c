#include "job/queue.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "job/keys.h"
#include "job/watch.h"

enum {
    RESUME_BATCH = 1000, /* some milliseconds of Redis' time */
    POST_ARGS = 4,       /* of each post, see QUEUE_POST */
    POSTS_BYTES =
        4 * 1024 * 1024, /* of one call: all rows that one turn can bring, ten times over */
};

/* What a finished JSON gets when it is to stay for ever: a hundred years. That it has a time to
 * live says that its `done` was counted; one that another program writes has none (QUEUE_PEEK). */
#define EVER_MS INT64_C(3155760000000)

/* ---- the scripts ---- */

/* Lua: whether a JSON says done, as any program may have written it. A name that holds these words
 * has its quotes escaped. */
#define SAYS_DONE                                                                                  \
    "local function says_done(json)\n"                                                             \
    "  return string.find(json, '\"status\"%s*:%s*\"done\"') ~= nil\n"                             \
    "end\n"

/* At once of a scan: with a million keys some 0.7 ms of Redis, for which a post may have to wait.
 */
#define SCAN_KEYS "250"

/*
 * KEYS[1] is the cid. Every script begins so.
 *
 * Nothing is rolled back when a script dies half way, and any key of ours may hold somebody else's
 * text. So what a job needs is asked for, or written first of all where it is tierd:due; what only
 * people watch, or can be done without, goes through watch() (job/keys).
 */
#define PRELUDE                                                                                    \
    KEYS_WATCH SAYS_DONE                                                                           \
        "local cid = KEYS[1]\n"                                                                    \
        "local job = 'tierd:job:' .. cid\n"                                                        \
        "local lock = 'lock:' .. cid\n"                                                            \
        "local at\n"                                                                               \
        "local function now()\n"                                                                   \
        "  if not at then\n"                                                                       \
        "    local t = redis.call('TIME')\n"                                                       \
        "    at = t[1] * 1000 + math.floor(t[2] / 1000)\n"                                         \
        "  end\n"                                                                                  \
        "  return at\n"                                                                            \
        "end\n" /* whether what stands in the JSON's place is ours to rewrite: another program may \
                 * have written a new one, or something else altogether */                         \
        "local function own(head)\n"                                                               \
        "  local stands = head and redis.pcall('GETRANGE', cid, 0, #head - 1)\n"                   \
        "  return stands and (stands == '' or stands == head)\n"                                   \
        "end\n"                                                                                    \
        "local function stands_done()\n"                                                           \
        "  local stands = redis.pcall('GETRANGE', cid, '0', '" JSON_BYTES "')\n"                   \
        "  return type(stands) == 'string' and says_done(stands)\n"                                \
        "end\n"                                                                                    \
        "local function unpark(gate)\n"                                                            \
        "  if gate then\n"                                                                         \
        "    watch('ZREM', 'tierd:parked:' .. gate, cid)\n"                                        \
        "    redis.call('HDEL', job, 'gate')\n"                                                    \
        "  end\n"                                                                                  \
        "end\n" /* what is due is not parked: `gate` is the one that it was behind, or false */    \
        "local function due(at, gate)\n"                                                           \
        "  redis.call('ZADD', 'tierd:due', string.format('%.0f', at), cid)\n"                      \
        "  unpark(gate)\n"                                                                         \
        "end\n"                                                                                    \
        "local function wake()\n"                                                                  \
        "  if watch('EXISTS', 'tierd:wake') == 0 then watch('LPUSH', 'tierd:wake', '1') end\n"     \
        "end\n"                                                                                    \
        "local function has_spare()\n"                                                             \
        "  for _, f in ipairs(redis.call('HKEYS', job)) do\n"                                      \
        "    if string.sub(f, 1, 6) == 'spare:' then return true end\n"                            \
        "  end\n"                                                                                  \
        "  return false\n"                                                                         \
        "end\n"                                                                                    \
        "local function put(head, worker, status, err)\n"                                          \
        "  local w = worker and worker ~= '' and ('\"' .. worker .. '\"') or 'null'\n"             \
        "  local j = head .. w .. ', \"status\": \"' .. status .. '\"'\n"                          \
        "  if err then j = j .. ', \"error\": ' .. err end\n"                                      \
        "  j = j .. '}'\n"                                                                         \
        "  redis.call('SET', cid, j)\n"                                                            \
        "  return j\n"                                                                             \
        "end\n"                                                                                    \
        "local function no_longer_active(level)\n"                                                 \
        "  if not level then return end\n"                                                         \
        "  redis.call('HDEL', job, 'active')\n"                                                    \
        "  watch('ZREM', 'tierd:active:' .. level, cid)\n"                                         \
        "  local next = watch('ZPOPMIN', 'tierd:parked:@busy:' .. level)\n"                        \
        "  if next and next[1] then\n"                                                             \
        "    redis.call('ZADD', 'tierd:due', next[2], next[1])\n"                                  \
        "    watch('HDEL', 'tierd:job:' .. next[1], 'gate')\n"                                     \
        "    wake()\n"                                                                             \
        "  end\n"                                                                                  \
        "end\n"

/* For scripts that write what people watch: events, and what was moved in each ten seconds of the
 * last quarter of an hour (a ring, so that it never grows). */
#define WATCHED                                                                                    \
    WATCH_NOTE                                                                                     \
    "local function event(...) note(now(), ...) end\n"                                             \
    "local function trouble(what, err)\n"                                                          \
    "  event(what, 'error', err)\n"                                                                \
    "  watch('XADD', 'tierd:errors', 'MAXLEN', '~', 100, '*', 'cid', cid, 'what', what,\n"         \
    "    'error', err)\n"                                                                          \
    "end\n"                                                                                        \
    "local function tally(moves, bytes)\n"                                                         \
    "  local slot = math.floor(now() / 10000)\n"                                                   \
    "  local key = string.format('%.0f', slot % 90)\n"                                             \
    "  local s, m, b = string.match(watch('HGET', 'tierd:rates', key) or '',\n"                    \
    "    '(%d+) (%d+) (%d+)')\n"                                                                   \
    "  if tonumber(s) ~= slot then m, b = 0, 0 end\n"                                              \
    "  watch('HSET', 'tierd:rates', key,\n"                                                        \
    "    string.format('%.0f %.0f %.0f', slot, m + moves, b + bytes))\n"                           \
    "end\n"                                                                                        \
    "local function no_failure()\n"                                                                \
    "  watch('ZREM', 'tierd:dead', cid)\n"                                                         \
    "  watch('ZREM', 'tierd:conflict', cid)\n"                                                     \
    "end\n"

/* Whether the claim is ours: ARGV[1] worker, ARGV[2] token. The lock may have run out unnoticed by
 * anybody; then it is taken again. What holds something else than ours was taken from us. */
#define OURS                                                                                       \
    "local h = redis.pcall('HMGET', job, 'token', 'rev', 'head', 'state', 'src', 'target',\n"      \
    "  'worker', 'active', 'gate')\n"                                                              \
    "if h.err and not string.find(h.err, 'WRONGTYPE', 1, true) then return h end\n"                \
    "if h[1] ~= ARGV[2] then return 'lost' end\n"                                                  \
    "local holder = redis.pcall('GET', lock)\n"                                                    \
    "if holder and holder ~= ARGV[1] then return 'lost' end\n"

/* Begins what ends a claim of ours. It may be told twice, when nobody knows whether it was told:
 * then it counts once, and what came meanwhile stays as it is. So what may be refused, its place in
 * tierd:due, is written before. */
#define ENDS "if not holder and not h[7] then return 'ok' end\n"
#define FREE                                                                                       \
    "if holder then redis.call('DEL', lock) end\n"                                                 \
    "redis.call('HDEL', job, 'worker')\n"

/* And its target has not changed: ARGV[3] revision. Another program may have replaced the JSON. */
#define STILL_WANTED                                                                               \
    "if h[2] ~= ARGV[3] or redis.pcall('GETRANGE', cid, 0, #h[3] - 1) ~= h[3] then\n"              \
    "  return 'changed'\n"                                                                         \
    "end\n"

static const char *const bodies[QUEUE_SCRIPTS] = {
    /* KEYS: the cids of several posts. ARGV: ttl, then POST_ARGS for each post: the JSON, level as
     * JSON, facts (target, level, seen and filename, with a NUL between), ack. The answer: one
     * element for each post, 1 when the JSON now stands as it was sent, else how it ended and a
     * text; when all of them are 1, a single 1 (hiredis allocates for each element). Each post is
     * what it would be alone, and one that fails leaves the others alone: what may be refused (a
     * foreign type, memory) is so before its first write. A slice of them shares what can be asked
     * and written for many at once (64: unpack's stack has room for thousands); a cid that comes
     * again in it sees all that was written before.
     *
     * Of a job that no worker has claimed yet its JSON and its place in tierd:due are all there is:
     * the claim makes the hash. So one EXISTS for the slice tells that nothing more is known, as
     * is nearly always so of contents that are counted. */
    [QUEUE_POST] =
        "local call, find, at, values, waiting, over = redis.call, string.find, false, {}, {}, {}\n"
        "local added = 0\n" KEYS_WATCH KEYS_FOREIGN SAYS_DONE "call('ZCARD', 'tierd:due')\n"
        "local function now()\n"
        "  if not at then\n"
        "    local t = call('TIME')\n"
        "    at = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))\n"
        "  end\n"
        "  return at\n"
        "end\n"
        "local function has_spare(job)\n"
        "  for _, f in ipairs(call('HKEYS', job)) do\n"
        "    if string.sub(f, 1, 6) == 'spare:' then return true end\n"
        "  end\n"
        "  return false\n"
        "end\n"
        /* what a new start takes off: its failure, the gate that it was parked behind */
        "local function start_anew(cid, job, stands, gate)\n"
        "  if stands and find(stands, '\"error\": ', 1, true) then\n"
        "    watch('ZREM', 'tierd:dead', cid)\n"
        "    watch('ZREM', 'tierd:conflict', cid)\n"
        "  end\n"
        "  if gate then\n"
        "    watch('ZREM', 'tierd:parked:' .. gate, cid)\n"
        "    call('HDEL', job, 'gate')\n"
        "  end\n"
        "end\n"
        /* written for all of a slice at once, behind the writes of each that may be refused */
        "local function flush()\n"
        "  if waiting[1] then\n" /* one that waits already keeps its place */
        "    added = added + call('ZADD', 'tierd:due', 'NX', unpack(waiting))\n"
        "  end\n"
        "  if values[1] then call('MSET', unpack(values)) end\n"
        "  if over[1] then call('ZREM', 'tierd:due', unpack(over)) end\n"
        "  values, waiting, over = {}, {}, {}\n"
        "end\n"
        "local function value(cid, json)\n"
        "  values[#values + 1], values[#values + 2] = cid, json\n"
        "end\n"
        "local function finished(cid, json)\n"
        "  if ARGV[1] ~= '0' then call('SET', cid, json, 'PX', ARGV[1])\n"
        "  else call('SET', cid, json) end\n"
        "end\n"
        /* whether the JSON speaks of another level than the row that was read */
        "local function stale(stands, i)\n"
        "  local is_done = find(stands, '\"status\": \"done\"', 1, true)\n"
        "  local needle = (is_done and '\"target\": ' or '\"db_level\": ') .. ARGV[i + 1]\n"
        "  return not find(stands, needle, 1, true) and ARGV[i + 3] ~= stands\n"
        "end\n"
        /* a key of the content that is not ours: noted, and named in the answer */
        "local function odd(key, want)\n"
        "  foreign(key, want)\n"
        "  local is = call('TYPE', key).ok\n"
        "  return {want == 'job' and is == 'string' and 'large' or 'type', key, is, want}\n"
        "end\n"
        /* a post for a content of which its JSON is known, or nothing */
        "local function post(cid, i, stands)\n"
        "  local json = ARGV[i]\n"
        "  if stands and stale(stands, i) then\n"
        "    if find(stands, '%z') then return odd(cid, 'job') end\n"
        "    return {'again', stands}\n"
        "  end\n"
        "  if find(json, '\"done\"}', -7, true) then\n"
        "    finished(cid, json)\n"
        "    if stands then over[#over + 1] = cid end\n"
        "  else\n"
        "    waiting[#waiting + 1], waiting[#waiting + 2] = now(), cid\n"
        "    value(cid, json)\n"
        "  end\n"
        "  start_anew(cid, nil, stands, nil)\n"
        "  return 1\n"
        "end\n"
        /* a post for a job that a worker has, or had */
        "local function post_known(cid, i, stands)\n"
        "  local job = 'tierd:job:' .. cid\n"
        "  local h = redis.pcall('HMGET', job, 'state', 'src', 'target', 'worker', 'rev', "
        "'token',\n"
        "    'seen', 'filename', 'gate')\n"
        "  if h.err then\n"
        "    if find(h.err, 'WRONGTYPE', 1, true) then return odd(job, 'hash') end\n"
        "    return {'error', h.err}\n"
        "  end\n"
        "  local state = h[1]\n"
        "  if not (state or h[5] or h[6]) and\n"
        "      not (find(ARGV[i], '\"done\"}', -7, true) and has_spare(job)) then\n"
        "    return post(cid, i, stands)\n"
        "  end\n"
        "  if state == 'done' then return {'commit', ''} end\n"
        "  local json, ack = ARGV[i], ARGV[i + 3]\n"
        "  local target, level, seen, filename =\n"
        "    string.match(ARGV[i + 2], '^(%Z*)%z(%Z*)%z(%Z*)%z(%Z*)$')\n"
        /* another program moved its file: that is committed before this post counts */
        "  if state and stands and ack ~= stands and says_done(stands) and\n"
        "      not find(stands, '\"target\": ' .. ARGV[i + 1], 1, true) then\n"
        "    return {'again', stands}\n"
        "  end\n"
        "  if state and h[2] ~= level and ack ~= h[2] and ack ~= stands then\n"
        "    return {'again', h[2]}\n"
        "  end\n"
        "  if not state and stands and stale(stands, i) then\n"
        "    if find(stands, '%z') then return odd(cid, 'job') end\n"
        "    return {'again', stands}\n"
        "  end\n"
        "  local head = string.match(json, '^(.*)null, \"status\": \"%l+\"}$')\n"
        "  local done = target == level\n"
        "  if state == 'claimed' then\n"
        /* a new target, or a row that somebody changed meanwhile: the worker must plan anew */
        "    local changed = target ~= h[3] or level ~= h[2] or (h[7] and seen ~= h[7]) or\n"
        "      filename ~= h[8]\n"
        "    call('HSET', job, 'target', target, 'head', head, 'src', level, 'seen', seen,\n"
        "      'filename', filename)\n"
        "    if changed then call('HINCRBY', job, 'rev', 1) end\n"
        "    if not h[4] or h[4] == '' then\n"
        "      value(cid, json)\n"
        "      return 1\n"
        "    end\n"
        "    json = head .. '\"' .. h[4] .. '\"' .. string.sub(json, #head + 5)\n"
        "    value(cid, json)\n"
        "    return {'ok', json}\n"
        "  end\n"
        "  if done and not has_spare(job) then\n"
        "    finished(cid, json)\n"
        "    start_anew(cid, job, stands, h[9])\n"
        "    call('DEL', job)\n"
        "    over[#over + 1] = cid\n"
        "    return 1\n"
        "  end\n"
        "  if state == 'queued' and h[2] == level and h[3] == target and h[7] == seen and\n"
        "     h[8] == filename then\n" /* the same move: its count alone is new */
        "    call('HSET', job, 'head', head)\n"
        "  else\n"
        "    call('HSET', job, 'state', done and 'cancelled' or 'queued', 'head', head, 'src', "
        "level,\n"
        "      'target', target, 'seen', seen, 'filename', filename, 'rev',\n"
        "      string.format('%.0f', (tonumber(h[5]) or 0) + 1))\n"
        "  end\n"
        "  if state ~= 'queued' or h[9] then\n" /* else it keeps its place there */
        "    call('ZADD', 'tierd:due', now(), cid)\n"
        "    added = added + 1\n"
        "  end\n"
        "  start_anew(cid, job, stands, h[9])\n"
        "  if h[6] then\n" /* it was claimed once: before, nothing can have failed */
        "    call('HDEL', job, 'error', 'attempts', 'crashes', 'waits')\n"
        "  end\n"
        "  value(cid, json)\n"
        "  return 1\n"
        "end\n"
        "local out, as_sent = {}, 0\n"
        "local function slice(first, last)\n"
        "  local cids, keys, met = {}, {}, {}\n"
        "  for k = first, last do\n"
        "    cids[#cids + 1] = KEYS[k]\n"
        "    keys[#keys + 1] = 'tierd:job:' .. KEYS[k]\n"
        "  end\n"
        "  local stand = call('MGET', unpack(cids))\n" /* of a foreign type: as if nothing stood */
        "  for n, cid in ipairs(cids) do\n"
        "    if not stand[n] then keys[#keys + 1] = cid end\n"
        "  end\n"
        "  local known = call('EXISTS', unpack(keys)) > 0\n"
        "  for n, cid in ipairs(cids) do\n"
        "    local k, stands, good, how = first + n - 1, stand[n], true, nil\n"
        "    if met[cid] then flush() end\n"
        "    if met[cid] or (known and not stands) then stands = redis.pcall('GET', cid) end\n"
        "    met[cid] = true\n"
        "    if type(stands) == 'table' or (stands and #stands > " JSON_BYTES ") then\n"
        "      how = odd(cid, 'job')\n"
        "    else\n"
        "      good, how = pcall(known and post_known or post, cid, 4 * k - 2, stands)\n"
        "    end\n"
        "    if not good then\n" /* an error is a table, or a string before Redis 7 */
        "      how = {'error', type(how) == 'table' and how.err or tostring(how)}\n"
        "    end\n"
        "    out[k] = how\n"
        "    if how == 1 then as_sent = as_sent + 1 end\n"
        "  end\n"
        "  flush()\n"
        "end\n"
        "for first = 1, #KEYS, 64 do slice(first, math.min(first + 63, #KEYS)) end\n"
        "if added > 0 and watch('EXISTS', 'tierd:wake') == 0 then\n"
        "  watch('LPUSH', 'tierd:wake', '1')\n"
        "end\n"
        "return as_sent == #KEYS and 1 or out\n",

    [QUEUE_PEEK] = PRELUDE
    "local stands = redis.pcall('GETRANGE', cid, '0', '" JSON_BYTES "')\n"
    "local h = redis.call('HMGET', job, 'state', 'src', 'target', 'seen', 'filename', 'rev', "
    "'path',\n"
    "  'head')\n"
    /* a JSON that no token of ours set, and that was not counted yet */
    "local foreign = not (h[1] == 'committed' and own(h[8])) and redis.call('PTTL', cid) == -1\n"
    "return {type(stands) == 'string' and stands ~= '' and stands, h[1], h[2], h[3], h[4], h[5], "
    "h[6], h[7],\n"
    "  foreign and 1 or 0}\n",

    /* ARGV: rev */
    [QUEUE_COMMITTED] = PRELUDE WATCHED
    "local h = redis.call('HMGET', job, 'state', 'rev', 'src', 'target', 'bytes', 'ms', 'seen')\n"
    "if h[1] ~= 'done' or h[2] ~= ARGV[1] or h[7] ~= ARGV[2] then return 0 end\n"
    "redis.call('HSET', job, 'state', 'committed', 'src', h[4], 'spare:' .. h[3],\n"
    "  string.format('%.0f', now()))\n"
    "redis.call('HDEL', job, 'spare:' .. h[4], 'to')\n"
    "local bytes, ms, le = h[5] or '0', tonumber(h[6] or 0), 'inf'\n"
    "for _, bound in ipairs({10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000, 300000, 1000000,\n"
    "    3000000}) do\n"
    "  if ms <= bound then le = string.format('%.0f', bound) break end\n"
    "end\n"
    "watch('HINCRBY', 'tierd:stats', 'moves', 1)\n"
    "watch('HINCRBY', 'tierd:stats', 'bytes', bytes)\n"
    "watch('HINCRBY', 'tierd:stats', 'ms', ms)\n"
    "watch('HINCRBY', 'tierd:stats', 'le:' .. le, 1)\n"
    "tally(1, 0)\n"
    "event('moved', 'from', h[3], 'to', h[4], 'bytes', bytes, 'ms', string.format('%.0f', ms))\n"
    "return 1\n",

    /* ARGV: the JSON that says done, old level, new level, seen, ttl. The row says the new level,
     * for another program moved the file there. Its JSON stays as that wrote it. Where a post wrote
     * another one meanwhile, that has seen the row, and only the old place is noted. */
    [QUEUE_TAKEN] = PRELUDE WATCHED
    "local h = redis.call('HMGET', job, 'state', 'to', 'gate', 'worker')\n"
    "local stands = redis.pcall('GET', cid) == ARGV[1]\n"
    "local held = h[4] and redis.call('EXISTS', lock) == 1\n"
    "local waits = not h[1] and redis.call('ZSCORE', 'tierd:due', cid)\n"
    "local ended = h[1] == 'dead' or h[1] == 'conflict'\n"
    "local takes = stands or not (h[1] or waits)\n"
    "if (takes and not held) or ended then due(now(), h[3]) end\n"
    "redis.call('HSET', job, 'spare:' .. ARGV[2], string.format('%.0f', now()))\n"
    "if not takes then return 0 end\n"
    "redis.call('HDEL', job, 'spare:' .. ARGV[3])\n"
    "if h[2] == ARGV[3] then redis.call('HDEL', job, 'to') end\n"
    /* a worker of ours in the middle of it fences itself, and its release cancels the job */
    "redis.call('HINCRBY', job, 'rev', 1)\n"
    "redis.call('HSET', job, 'state', held and h[1] == 'claimed' and 'claimed' or 'cancelled',\n"
    "  'src', ARGV[3], 'target', ARGV[3], 'seen', ARGV[4], 'taken', ARGV[2])\n"
    "redis.call('HDEL', job, 'head', 'filename', 'error', 'attempts', 'crashes', 'waits')\n"
    "no_failure()\n"
    "if stands then redis.call('PEXPIRE', cid, ARGV[5]) end\n"
    "event('taken', 'from', ARGV[2], 'to', ARGV[3])\n"
    "wake()\n"
    "return 1\n",

    /* ARGV: rev */
    [QUEUE_REPLAN] =
        PRELUDE "local h = redis.call('HMGET', job, 'state', 'rev', 'head', 'seen', 'gate')\n"
                "if h[1] ~= 'done' or h[2] ~= ARGV[1] or h[4] ~= ARGV[2] then\n"
                "  return 0\n"
                "end\n"
                "if redis.call('EXISTS', lock) == 0 then due(now(), h[5]) wake() end\n"
                "redis.call('HSET', job, 'state', 'queued')\n"
                "redis.call('HINCRBY', job, 'rev', 1)\n"
                "put(h[3], nil, 'update')\n"
                "return 1\n",

    /* ARGV: worker, lease, ms until the window opens or '', most jobs into one level or '0', levels
     * within reach, each between newlines, or '', how many to claim. KEYS[1] is not a cid here.
     *
     * What may not start now is parked behind a gate, so that it is not looked at again and again:
     * the level it goes to, all levels, the window, a level that is busy, or a route that this
     * worker cannot serve. */
    [QUEUE_CLAIM] =
        "local t = redis.call('TIME')\n"
        "local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"
        "local worker, lease, opens, most, reach, want = unpack(ARGV)\n"
        "local got, full = {}, false\n" KEYS_WATCH KEYS_FOREIGN SAYS_DONE
        "local function score(at) return string.format('%.0f', at) end\n"
        "local function wake()\n"
        "  if watch('EXISTS', 'tierd:wake') == 0 then watch('LPUSH', 'tierd:wake', '1') end\n"
        "end\n"
        /* what is no time is 0, which of a gate is: until it is resumed */
        "local function time(text) return tonumber(string.match(text or '', '^%d+$') or 0) end\n"
        /* asked first, so that nothing is half done when one of them is not ours */
        "local known = redis.call('HGETALL', 'tierd:paused')\n"
        "local routes = redis.call('SMEMBERS', 'tierd:routes')\n"
        /* A clock that was set back would leave everything due only when it has caught up. */
        "local clock = redis.pcall('GET', 'tierd:clock')\n"
        "local last = type(clock) == 'table' and now or time(clock)\n"
        "if now > last + 1000 or now < last then redis.call('SET', 'tierd:clock', score(now)) end\n"
        "if now + 5000 < last then\n"
        "  local late = redis.call('ZRANGEBYSCORE', 'tierd:due', score(now), '+inf', "
        "'WITHSCORES')\n"
        "  for i = 1, #late, 2 do\n"
        "    redis.call('ZADD', 'tierd:due', score(math.max(now, late[i + 1] - (last - now))), "
        "late[i])\n"
        /* and a dead worker's lock would stand as long; one renewed since has less left */
        "    local held = redis.call('PTTL', 'lock:' .. late[i]) - (last - now)\n"
        "    if held > 0 then redis.call('PEXPIRE', 'lock:' .. late[i], held) end\n"
        "  end\n"
        "  for i = 1, #known, 2 do\n"
        "    local till = time(known[i + 1])\n"
        "    if till ~= 0 then\n"
        "      known[i + 1] = score(math.max(1, till - (last - now)))\n"
        "      redis.call('HSET', 'tierd:paused', known[i], known[i + 1])\n"
        "    end\n"
        "  end\n"
        "end\n"
        "local paused, next_gate = {}, nil\n"
        "for i = 1, #known, 2 do\n"
        "  local gate, till = known[i], time(known[i + 1])\n"
        "  if till ~= 0 and till <= now then\n"  /* it opened: a hundred at a time */
        "    redis.call('ZCARD', 'tierd:due')\n" /* what is taken out there must go in here */
        "    local freed = watch('ZPOPMIN', 'tierd:parked:' .. gate, 100) or {}\n"
        "    for k = 1, #freed, 2 do\n"
        "      redis.call('ZADD', 'tierd:due', freed[k + 1], freed[k])\n"
        "      watch('HDEL', 'tierd:job:' .. freed[k], 'gate')\n"
        "    end\n"
        "    if #freed < 200 then\n"
        "      redis.call('HDEL', 'tierd:paused', gate)\n"
        "      watch('HDEL', 'tierd:full', gate)\n"
        "    end\n"
        "  else\n"
        "    paused[gate] = true\n"
        "    if till ~= 0 and (not next_gate or till < next_gate) then next_gate = till end\n"
        "  end\n"
        "end\n"
        "local function within(level)\n"
        "  return string.find(reach, '\\n' .. level .. '\\n', 1, true)\n"
        "end\n"
        "local function shut(gate, ms)\n"
        "  redis.call('HSET', 'tierd:paused', gate, score(now + ms))\n"
        "  return gate\n"
        "end\n"
        /* the levels that a job touches, when one of them is out of reach */
        "local function route(job, src, target)\n"
        "  if reach == '' then return nil end\n"
        "  local all, out = {src, target}, false\n"
        "  for _, f in ipairs(redis.call('HKEYS', job)) do\n"
        "    if string.sub(f, 1, 6) == 'spare:' then all[#all + 1] = string.sub(f, 7) end\n"
        "  end\n"
        "  table.sort(all)\n"
        "  for _, level in ipairs(all) do out = out or not within(level) end\n"
        "  if not out then return nil end\n"
        "  local gate = '@route\\n' .. table.concat(all, '\\n') .. '\\n'\n"
        "  redis.call('SADD', 'tierd:routes', gate)\n"
        "  return gate\n"
        "end\n"
        "local function gate_of(job, state, src, target)\n"
        "  local starts = state == 'queued' or state == 'backoff'\n"
        "  if starts and paused['@all'] then return '@all' end\n"
        "  local away = route(job, src, target)\n" /* whose window is not ours */
        "  if away then return away end\n"
        "  if starts then\n"
        "    if opens ~= '' then return shut('@window', opens) end\n"
        "    if paused[target] then return target end\n"
        "    if most ~= '0' then\n"
        "      local active = 'tierd:active:' .. target\n"
        "      watch('ZREMRANGEBYSCORE', active, '-inf', score(now))\n"
        "      if (watch('ZCARD', active) or 0) >= tonumber(most) then\n"
        "        return shut('@busy:' .. target, lease)\n"
        "      end\n"
        "    end\n"
        "  end\n"
        "  return nil\n"
        "end\n"
        "local function later(from, cid, ms)\n"
        "  redis.call('ZADD', from, score(now + ms), cid)\n"
        "end\n"
        "local function hold(from, cid, job, gate)\n"
        "  if not watch('ZADD', 'tierd:parked:' .. gate, score(now), cid) then\n"
        "    return later(from, cid, lease)\n"
        "  end\n"
        "  redis.call('ZREM', from, cid)\n"
        "  redis.call('HSET', job, 'gate', gate)\n"
        "end\n"
        /* The job of a post that nobody has claimed before: made from its JSON as job_write writes
         * it. Others, names with escapes in them, and what job_read may find out of bounds, are
         * read by the worker (QUEUE_BEGIN). */
        "local function enlist(cid, job)\n"
        "  local stands = redis.pcall('GETRANGE', cid, '0', '" JSON_BYTES "')\n"
        "  if type(stands) ~= 'string' then return nil end\n"
        "  local head, id, count, target, src, name = string.match(stands, '^({\"cid\": "
        "\"(%d+)\", ' ..\n"
        "    '\"count\": \"(%d+)\", \"target\": \"([^\"\\\\]+)\", \"db_level\": \"([^\"\\\\]+)\", "
        "' "
        "..\n"
        "    '\"filename\": \"([^\"\\\\]+)\", \"worker_id\": )null, \"status\": \"update\"}$')\n"
        "  if id ~= cid or #count > 18 or #target > 256 or #src > 256 or #name > 3072 then\n"
        "    return nil\n"
        "  end\n"
        "  redis.call('HSET', job, 'state', 'queued', 'head', head, 'src', src, 'target', target,\n"
        "    'filename', name)\n"
        "  redis.call('HINCRBY', job, 'rev', 1)\n"
        "  return 'queued', src, target\n"
        "end\n"
        "local function take(from, cid, job, lock, token)\n"
        "  local h = redis.call('HMGET', job, 'state', 'worker', 'head', 'target', 'token', "
        "'short',\n"
        "    'at')\n"
        "  if h[6] then\n"
        "    watch('ZREM', 'tierd:short:' .. h[6], cid)\n"
        "    redis.call('HDEL', job, 'short')\n"
        "  end\n"
        "  local moves = h[1] == 'queued' or h[1] == 'backoff' or h[1] == 'claimed'\n"
        /* that one is taken for dead; if it lives, it takes that back. What we hold ourselves we
         * did not die of: the answer to that claim was lost */
        "  if h[2] and h[2] ~= worker then\n"
        "    redis.call('HINCRBY', job, 'crashes', 1)\n"
        "    redis.call('HSET', job, 'dead', h[5] or '')\n"
        /* a post may have changed the target: nobody else would look at what that one left there */
        "    if h[7] and (reach == '' or within(h[7])) then\n"
        "      redis.call('HSETNX', job, 'spare:' .. h[7], '0')\n"
        "    end\n"
        "  end\n"
        "  if moves then\n"
        "    redis.call('HSET', job, 'token', score(token), 'worker', worker, 'state', 'claimed',\n"
        "      'at', h[4])\n"
        "  else redis.call('HSET', job, 'token', score(token), 'worker', worker) end\n"
        "  local stands = redis.pcall('GETRANGE', cid, '0', '" JSON_BYTES "')\n"
        "  if type(stands) == 'table' then stands = '' end\n" /* not a string: not ours */
        "  if moves then\n"
        "    watch('HSET', 'tierd:progress', cid,\n"
        "      string.format('0 0 0 %.0f %.0f %s', now, now + lease, worker))\n"
        "    if most ~= '0' and watch('ZADD', 'tierd:active:' .. h[4], score(now + lease), cid) "
        "then\n"
        "      redis.call('HSET', job, 'active', h[4])\n"
        "    end\n"
        /* but not what another program set to done: that is to be committed */
        "    if h[3] and string.sub(stands, 1, #h[3]) == h[3] and not says_done(stands) then\n"
        "      stands = h[3] .. '\"' .. worker .. '\", \"status\": \"update\"}'\n"
        "      redis.call('SET', cid, stands)\n"
        "    end\n"
        "  end\n"
        "  if from ~= 'tierd:due' then\n"
        "    redis.call('ZREM', from, cid)\n"
        "    redis.call('HDEL', job, 'gate')\n"
        "  end\n"
        "  redis.call('ZADD', 'tierd:due', score(now + lease), cid)\n"
        "  got[#got + 1] = {cid, score(token), stands, redis.call('HGETALL', job), score(now)}\n"
        "end\n"
        "local function look(from)\n"
        "  local ask = from == 'tierd:due' and redis.call or watch\n"
        "  for _, cid in ipairs(ask('ZRANGEBYSCORE', from, '-inf', score(now), 'LIMIT', 0, 16 + "
        "want) or {}) do\n"
        "    if full or #got == tonumber(want) then return end\n"
        "    local job, lock = 'tierd:job:' .. cid, 'lock:' .. cid\n"
        "    local h = redis.pcall('HMGET', job, 'state', 'src', 'target', 'worker', 'crashes')\n"
        "    if not h.err and not h[1] then h[1], h[2], h[3] = enlist(cid, job) end\n"
        "    local gate = h[1] and h[2] and h[3] and gate_of(job, h[1], h[2], h[3])\n"
        /* somebody may have died of it: it is taken alone, or left for the next claim */
        "    local risky = h[4] or (h[5] and h[5] ~= '0')\n"
        "    if risky and got[1] then\n"
        "    elseif h.err and string.find(h.err, 'WRONGTYPE', 1, true) then\n" /* not of our making
                                                                                */
        "      foreign(job, 'hash')\n"
        "      later(from, cid, lease)\n"
        "    elseif h.err then\n"
        "      error(h.err)\n"
        "    elseif not h[1] and (redis.call('TYPE', cid).ok ~= 'string' or\n"
        "        not string.find(cid, '^[1-9]%d*$')) then\n"
        "      if redis.call('EXISTS', cid) == 1 then foreign(cid, 'job') end\n"
        "      redis.call('ZREM', from, cid)\n"
        "    elseif gate then\n"
        "      if 'tierd:parked:' .. gate ~= from then hold(from, cid, job, gate) end\n"
        "    else\n" /* the token first, which may be refused: no lock without one */
        "      local token = redis.call('INCR', 'tierd:token')\n"
        "      if redis.call('SET', lock, worker, 'NX', 'PX', lease) then\n"
        "        take(from, cid, job, lock, token)\n"
        "        full = risky\n"
        "      else\n" /* held: look again when the claim ends, at the latest a lease from now */
        "        local left = redis.call('PTTL', lock)\n"
        "        if left > tonumber(lease) then\n" /* somebody else's, given up sooner perhaps */
        "          left = tonumber(lease)\n"
        "        elseif left < 0 then\n"
        "          left = tonumber(lease)\n"
        "          if redis.call('TYPE', lock).ok ~= 'string' then foreign(lock, 'string') end\n"
        "        end\n"
        "        later(from, cid, left + 1)\n"
        "      end\n"
        "    end\n"
        "  end\n"
        "end\n"
        "look('tierd:due')\n"
        "for _, gate in ipairs(routes) do\n"
        "  local mine = true\n"
        "  for level in string.gmatch(string.sub(gate, 8), '[^\\n]+') do\n"
        "    mine = mine and (reach == '' or within(level))\n"
        "  end\n"
        "  if mine then look('tierd:parked:' .. gate) end\n"
        "  if redis.call('EXISTS', 'tierd:parked:' .. gate) == 0 then\n"
        "    redis.call('SREM', 'tierd:routes', gate)\n"
        "  end\n"
        "end\n"
        "if got[1] then\n"
        "  if redis.call('ZCOUNT', 'tierd:due', '-inf', score(now)) > 0 then wake() end\n"
        "  return got\n"
        "end\n"
        "local first = redis.call('ZRANGE', 'tierd:due', 0, 0, 'WITHSCORES')\n"
        "local till = first[2] and tonumber(first[2]) or next_gate\n"
        "if next_gate and till > next_gate then till = next_gate end\n"
        "if till then return math.max(0, math.min(86400000, math.ceil(till - now))) end\n"
        "return -1\n",

    /* ARGV: worker, token, head, src, target, seen, filename, the JSON that was read, rev, and ''
     * or a level whose copy is out of date: then it is not what was read that counts, but whether
     * the plan is still ours */
    [QUEUE_BEGIN] =
        PRELUDE OURS "local stale = ARGV[10]\n"
                     "if stale == '' then\n"
                     "  if redis.pcall('STRLEN', cid) ~= #ARGV[8] or\n"
                     "     redis.call('GET', cid) ~= ARGV[8] then return 'changed' end\n"
                     "else\n"
                     "  local read = redis.pcall('GET', cid) == ARGV[8]\n"
                     "  if h[2] ~= ARGV[9] or not (read or own(h[3])) then return 'changed' end\n"
                     "  redis.call('HSETNX', job, 'spare:' .. stale, '0')\n"
                     "  redis.call('HSETNX', job, 'spare:' .. h[5], '0')\n"
                     "  redis.call('HSET', job, 'to', stale)\n"
                     "end\n"
                     "redis.call('HSET', job, 'state', 'claimed', 'head', ARGV[3], "
                     "'src', ARGV[4], 'target', ARGV[5], 'at', ARGV[5],\n"
                     "  'seen', ARGV[6], 'filename', ARGV[7])\n"
                     "put(ARGV[3], ARGV[1], 'update')\n"
                     "return {'ok', tostring(redis.call('HINCRBY', job, 'rev', 1))}\n",

    /* ARGV: worker, token, rev, lease, spare or '', bytes done, bytes in all, bytes a second, bytes
     * since the last time, when it began */
    [QUEUE_RENEW] = PRELUDE WATCHED OURS
    "due(now() + ARGV[4], h[9])\n"
    "redis.call('SET', lock, ARGV[1], 'PX', ARGV[4])\n"
    "if h[8] then\n"
    "  watch('ZADD', 'tierd:active:' .. h[8], 'XX', string.format('%.0f', now() + ARGV[4]), "
    "cid)\n"
    "end\n" STILL_WANTED "if ARGV[5] ~= '' then\n"
    "  redis.call('HSETNX', job, 'spare:' .. ARGV[5], '0')\n"
    "  redis.call('HDEL', job, 'was', 'made', 'from', 'to', 'name', 'path', 'taken')\n"
    "end\n"
    "watch('HSET', 'tierd:progress', cid, string.format('%s %s %s %s %.0f %s', ARGV[6],\n"
    "  ARGV[7], ARGV[8], ARGV[10], now() + ARGV[4], ARGV[1]))\n"
    "if ARGV[9] ~= '0' then tally(0, ARGV[9]) end\n"
    "return 'ok'\n",

    /* ARGV: worker, token, rev, bytes copied, of these since the last time, ms it took, seen, was,
     * made, target, name, path. The copy stands, and must be found again even if nobody wants it.
     */
    [QUEUE_DONE] = PRELUDE WATCHED OURS
    "redis.call('HSET', job, 'was', ARGV[8], 'made', ARGV[9], 'from', h[5], 'to', ARGV[10],\n"
    "  'name', ARGV[11], 'path', ARGV[12])\n" STILL_WANTED "if not holder then return 'lost' end\n"
    "if h[4] ~= 'claimed' then return 'changed' end\n"
    "redis.call('HSET', job, 'state', 'done', 'bytes', ARGV[4], 'ms', ARGV[6], 'seen', ARGV[7])\n"
    "redis.call('HSETNX', job, 'spare:' .. h[6], '0')\n"
    /* what failed on the way here is over: the commit has its own five attempts */
    "redis.call('HDEL', job, 'attempts', 'waits')\n"
    "put(h[3], ARGV[1], 'done')\n"
    "if ARGV[5] ~= '0' then tally(0, ARGV[5]) end\n"
    "return 'ok'\n",

    /* ARGV: worker, token, ttl, retired levels... */
    [QUEUE_FINISH] = PRELUDE OURS ENDS
    "local retired, left = {}, false\n"
    "for i = 4, #ARGV do retired[i - 3] = 'spare:' .. ARGV[i] end\n"
    "for _, f in ipairs(redis.call('HKEYS', job)) do\n"
    "  if string.sub(f, 1, 6) == 'spare:' then\n"
    "    local gone = false\n"
    "    for _, r in ipairs(retired) do gone = gone or r == f end\n"
    "    left = left or not gone\n"
    "  end\n"
    "end\n"
    "if h[4] == 'claimed' and h[5] == h[6] then h[4] = 'cancelled' end\n"
    "local over = h[4] == 'committed' or h[4] == 'cancelled'\n"
    /* its spares were looked at, no more; or no job after all, and what stands there is let alone
     */
    "local ended = not h[4] or h[4] == 'dead' or h[4] == 'conflict'\n"
    "local goes = ended or (over and not left)\n"
    "if goes then redis.call('ZREM', 'tierd:due', cid)\n"
    /* a commit that was refused: not at once */
    "else due(now() + (h[4] == 'done' and 1000 or 0), h[9]) end\n" FREE
    "if retired[1] then redis.call('HDEL', job, unpack(retired)) end\n"
    "no_longer_active(h[8])\n"
    "watch('HDEL', 'tierd:progress', cid)\n"
    "if h[4] == 'cancelled' and own(h[3]) then put(h[3], nil, 'done') end\n"
    "if goes then\n"
    "  if over then unpark(h[9]) end\n"
    "  if not left then redis.call('DEL', job) end\n"
    /* without a head there was no more to it than a spare */
    "  if over and h[3] then redis.call('PEXPIRE', cid, ARGV[3]) end\n"
    "  return 'ok'\n"
    "end\n"
    "if h[4] == 'claimed' then redis.call('HSET', job, 'state', 'queued') end\n"
    "wake()\n"
    "return 'ok'\n",

    /* ARGV: worker, token, delay, counts, error, whether it is for want of room */
    [QUEUE_RELEASE] = PRELUDE WATCHED
    "local crashes = tonumber(watch('HGET', job, 'crashes') or 0)\n"
    "local least = ARGV[4] == '2' and 1 or 0\n" /* for who claims it next has to clear up */
    "if crashes and crashes > least and redis.call('HGET', job, 'dead') == ARGV[2] then\n" /* but
                                                                                              we
                                                                                              live
                                                                                            */
    "  redis.call('HINCRBY', job, 'crashes', -1)\n"
    "  redis.call('HDEL', job, 'dead')\n"
    "end\n" OURS ENDS "due(now() + ARGV[3], h[9])\n" FREE "no_longer_active(h[8])\n"
    "watch('HDEL', 'tierd:progress', cid)\n"
    "if least == 1 then\n"
    "  local at = redis.call('HGET', job, 'at')\n"
    "  if crashes == 0 then redis.call('HSET', job, 'crashes', 1) end\n"
    "  if at then redis.call('HSETNX', job, 'spare:' .. at, '0') end\n"
    "end\n"
    "if ARGV[4] ~= '' then\n"
    "  redis.call('HINCRBY', job, ARGV[4] == '1' and 'attempts' or 'waits', 1)\n"
    "end\n"
    "redis.call('HSET', job, 'error', ARGV[5])\n"
    "if h[4] == 'claimed' then\n"
    "  local next = ARGV[3] == '0' and 'queued' or 'backoff'\n"
    "  if h[5] == h[6] then next = 'cancelled' end\n"
    "  redis.call('HSET', job, 'state', next)\n"
    "  if own(h[3]) and (next == 'cancelled' or not stands_done()) then\n"
    "    put(h[3], nil, next == 'cancelled' and 'done' or 'update')\n"
    "  end\n"
    "end\n"
    "if ARGV[6] == '1' then\n"
    "  redis.call('HSET', job, 'short', h[6])\n"
    "  watch('HSET', 'tierd:short', h[6], ARGV[5])\n"
    "  watch('ZADD', 'tierd:short:' .. h[6], string.format('%.0f', now() + ARGV[3]), cid)\n"
    "end\n"
    "if ARGV[4] == '1' then\n"
    "  trouble('retried', ARGV[5])\n"
    "  watch('HINCRBY', 'tierd:stats', 'retried', 1)\n"
    "elseif ARGV[3] ~= '0' then\n"
    "  event('waits', 'error', ARGV[5])\n"
    "end\n"
    "if ARGV[3] == '0' then wake() end\n"
    "return 'ok'\n",

    /* ARGV: worker, token, status, error as JSON, error, spare to drop, rev */
    [QUEUE_FAIL] = PRELUDE WATCHED OURS
    /* a post that came meanwhile wants something else, or the content where it is: that is not what
       failed */
    "if h[4] == 'claimed' and (h[2] ~= ARGV[7] or h[5] == h[6]) then return 'changed' end\n"
    /* nor did what another program says to have done */
    "if h[4] ~= 'done' and stands_done() then return 'taken' end\n" ENDS
    /* a copy that will not be committed is looked at, and taken away */
    "if h[4] == 'done' then due(now(), h[9]) else redis.call('ZREM', 'tierd:due', cid) end\n" FREE
    "no_longer_active(h[8])\n"
    "watch('HDEL', 'tierd:progress', cid)\n"
    "redis.call('HDEL', job, 'spare:' .. ARGV[6])\n"
    "redis.call('HSET', job, 'state', ARGV[3], 'error', ARGV[5])\n"
    "if own(h[3]) then put(h[3], nil, ARGV[3], ARGV[4]) end\n"
    "if not has_spare() then redis.call('DEL', job) end\n"
    "watch('ZADD', 'tierd:' .. ARGV[3], string.format('%.0f', now()), cid)\n"
    "watch('HINCRBY', 'tierd:stats', ARGV[3], 1)\n"
    "trouble(ARGV[3], ARGV[5])\n"
    "if h[4] == 'done' then wake() end\n"
    "return 'ok'\n",

    /* ARGV: holder */
    [QUEUE_UNLOCK] =
        PRELUDE "if redis.pcall('GET', lock) == ARGV[1] then return redis.call('DEL', lock) end\n"
                "return 0\n",

    /* ARGV: level, spare. A further spare of the same content is added to the same job; where
     * another job is under way, it looks at the spare at its end. One that was given up stays so.
     */
    [QUEUE_SPARE] =
        PRELUDE "local h = redis.call('HMGET', job, 'state', 'head', 'src', 'gate')\n"
                "local waits = not h[1] and redis.call('ZSCORE', 'tierd:due', cid)\n"
                "local given_up = h[1] == 'dead' or h[1] == 'conflict'\n"
                "local same = h[1] == 'cancelled' and not h[2] and h[3] == ARGV[1]\n"
                "local under_way = waits or (h[1] and not given_up and not same)\n"
                "if not under_way then due(now(), h[4]) end\n"
                "redis.call('HSETNX', job, 'spare:' .. ARGV[2], '0')\n"
                "if under_way then return 0 end\n"
                "if not given_up then\n"
                "  redis.call('HSET', job, 'state', 'cancelled', 'src', ARGV[1], 'target', "
                "ARGV[1])\n"
                "end\n"
                "wake()\n"
                "return 1\n",

    /* ARGV: gate, how long in ms or '0' until it is resumed, why a level is full or ''. What a
     * person paused stays so. */
    [QUEUE_PAUSE] = "local t = redis.call('TIME')\n"
                    "local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"
                    "if redis.call('HGET', 'tierd:paused', ARGV[1]) == '0' then return 0 end\n"
                    "local till = ARGV[2] == '0' and '0' or string.format('%.0f', now + ARGV[2])\n"
                    "redis.call('HSET', 'tierd:paused', ARGV[1], till)\n"
                    "if ARGV[3] == '' then redis.pcall('HDEL', 'tierd:full', ARGV[1])\n"
                    "else redis.pcall('HSET', 'tierd:full', ARGV[1], ARGV[3]) end\n"
                    "return 1\n",

    /* ARGV: gate, most. How many came free. */
    [QUEUE_RESUME] =
        KEYS_WATCH "redis.call('ZCARD', 'tierd:due')\n" /* what is taken out must go in there */
                   "redis.call('HLEN', 'tierd:paused')\n"
                   "local freed = watch('ZPOPMIN', 'tierd:parked:' .. ARGV[1], ARGV[2]) or {}\n"
                   /* what is left comes free even if nobody asks again: the gate has opened */
                   "if #freed < 2 * ARGV[2] then redis.call('HDEL', 'tierd:paused', ARGV[1])\n"
                   "else redis.call('HSET', 'tierd:paused', ARGV[1], '1') end\n"
                   "watch('HDEL', 'tierd:full', ARGV[1])\n"
                   "for k = 1, #freed, 2 do\n"
                   "  redis.call('ZADD', 'tierd:due', freed[k + 1], freed[k])\n"
                   "  watch('HDEL', 'tierd:job:' .. freed[k], 'gate')\n"
                   "end\n"
                   "if freed[1] and watch('EXISTS', 'tierd:wake') == 0 then\n"
                   "  watch('LPUSH', 'tierd:wake', '1')\n"
                   "end\n"
                   "return #freed / 2\n",

    /* ARGV: cursor, batch, worker, ms that the turn lasts beyond this batch, and beyond the last
     * one. KEYS[1] is not a cid here. Who has not the turn is at the end; without a place to note
     * the turn in, everybody has it. Of what is longer than a job only its beginning is carried. */
    [QUEUE_SCAN] = KEYS_WATCH
    "local holder = redis.pcall('GET', 'tierd:scan')\n"
    "if type(holder) == 'string' and holder ~= ARGV[3] then return {'0'} end\n"
    "local r = redis.call('SCAN', ARGV[1], 'MATCH', '[1-9]*', 'COUNT', ARGV[2])\n"
    "local out, cids = {r[1]}, {}\n"
    "if type(holder) ~= 'table' then\n"
    "  redis.call('SET', 'tierd:scan', ARGV[3], 'PX', r[1] == '0' and ARGV[5] or ARGV[4])\n"
    "end\n"
    "for _, key in ipairs(r[2]) do\n"
    "  if #key <= 20 and not string.find(key, '%D') then cids[#cids + 1] = key end\n"
    "end\n"
    "for i, cid in ipairs(cids) do\n"
    "  local j = watch('GETRANGE', cid, '0', '" JSON_BYTES "')\n"
    "  local ours = not j or j == '' or string.find(j, '\"status\": \"done\"}', 1, true) or "
    "string.find(j, ', \"error\": ', 1, true)\n"
    "  if not ours and #out < 4 * ARGV[2] and not redis.call('ZSCORE', 'tierd:due', cid) and\n"
    "      watch('HEXISTS', 'tierd:job:' .. cid, 'gate') ~= 1 then\n"
    "    out[#out + 1] = cid out[#out + 1] = j\n"
    "  end\n"
    "end\n"
    "return out\n",

    /* ARGV: cursor, batch. KEYS[1] is not a cid here. */
    [QUEUE_DONES] = KEYS_WATCH SAYS_DONE
    "local r = redis.call('SCAN', ARGV[1], 'MATCH', '[1-9]*', 'COUNT', ARGV[2])\n"
    "local out = {r[1]}\n"
    "for _, key in ipairs(r[2]) do\n"
    "  if #key <= 20 and not string.find(key, '%D') and redis.call('PTTL', key) == -1 then\n"
    "    local j = watch('GETRANGE', key, '0', '" JSON_BYTES "')\n"
    "    local state = watch('HGET', 'tierd:job:' .. key, 'state')\n"
    "    local ours = state == 'done' or state == 'committed'\n"
    "    if j and says_done(j) and not ours then out[#out + 1] = key out[#out + 1] = j end\n"
    "  end\n"
    "end\n"
    "return out\n",

    /* ARGV: '' to add, else it is no job, and is to be told of once; what was read of its JSON, or
     * ''. A scan read it a while ago: what was done since, or posted, is no new job. */
    [QUEUE_ADD] = PRELUDE WATCHED
    "if ARGV[1] ~= '' then\n"
    "  local seen = 'tierd:bad:' .. cid\n"
    "  local sha = redis.sha1hex(watch('GETRANGE', cid, '0', '" JSON_BYTES "') or '')\n"
    "  local told = redis.pcall('GET', seen)\n"
    "  if type(told) == 'table' or told == sha then return 0 end\n"
    "  redis.call('SET', seen, sha, 'PX', 604800000)\n"
    "  return 1\n"
    "end\n"
    "if ARGV[2] ~= '' and watch('GETRANGE', cid, '0', '" JSON_BYTES "') ~= ARGV[2] then return 0 "
    "end\n"
    "if redis.call('ZADD', 'tierd:due', 'NX', string.format('%.0f', now()), cid) == 0 then return "
    "0 end\n"
    "unpark(watch('HGET', job, 'gate'))\n"
    "no_failure()\n"
    "watch('HDEL', job, 'state', 'head', 'worker')\n" /* but known spares stay known */
    "wake()\n"
    "return 1\n",
};

void queue_init(struct queue *q, int64_t done_ttl_ms) {
    q->done_ttl_ms = done_ttl_ms;
    for (size_t i = 0; i < QUEUE_SCRIPTS; i++)
        redis_script_init(&q->scripts[i],
                          bodies[i] ? bodies[i] : watch_script((enum queue_script)i));
}

/* How long a JSON stays once its done was counted. */
static int64_t kept_ms(const struct queue *q) {
    return q->done_ttl_ms > 0 ? q->done_ttl_ms : EVER_MS;
}

/* ---- the API's side ---- */

static int eval_async(struct queue *q, struct redis_async *r, enum queue_script script,
                      uint64_t cid, const struct str_view *args, size_t n, redis_done_fn *done,
                      void *ctx) {
    char text[JOB_CID_DIGITS];
    struct str_view key = str_from_u64(text, cid);
    return redis_async_eval(r, &q->scripts[script], &key, 1, args, n, done, ctx);
}

/* ---- posts: what one turn brings goes out as one script call ---- */

static enum queue_posted how_posted(struct str_view how) {
    return str_is(how, "ok")       ? QUEUE_POSTED
           : str_is(how, "again")  ? QUEUE_LOOK_AGAIN
           : str_is(how, "commit") ? QUEUE_COMMIT_FIRST
           : str_is(how, "large")  ? QUEUE_NO_JOB
                                   : QUEUE_BAD_KEY;
}

static struct str_view json_of(struct buf *b, const struct job *job) {
    buf_clear(b);
    job_write(b, job);
    return buf_view(b);
}

/* Tells each post of one call how it ended; its own owner may free it then. */
static void on_posts(void *ctx, int rc, const redis_reply *reply) {
    struct queue_post *next;
    size_t i = 0;
    bool all_as_sent = redis_int(reply) == 1;
    for (struct queue_post *post = ctx; post; post = next, i++) {
        const redis_reply *end = redis_at(reply, i);
        struct str_view how = redis_text(redis_at(end, 0));
        struct str_view text = redis_text(redis_at(end, 1));
        int own_rc = rc < 0 ? rc : str_is(how, "error") ? redis_error_rc(text) : 0;
        char sentence[KEYS_TEXT_BYTES];
        if (str_is(how, "type") || str_is(how, "large")) {
            keys_sentence(sentence, sizeof sentence, end);
            text = str_view(sentence);
        }
        next = post->next;
        if (all_as_sent || redis_int(end) == 1)
            post->done(post, own_rc, QUEUE_POSTED, json_of(&post->posts->json, post->job));
        else
            post->done(post, own_rc, how_posted(how), text);
    }
}

static void on_flush_posts(void *ctx) {
    struct queue_posts *p = ctx;
    struct queue_post *first = p->first;
    int rc = redis_async_eval_composed(p->redis, &p->queue->scripts[QUEUE_POST], p->n, &p->keys,
                                       1 + POST_ARGS * p->n, &p->args, on_posts, first);
    p->first = NULL;
    p->last = &p->first;
    p->n = 0;
    buf_clear(&p->keys);
    buf_clear(&p->args);
    if (rc < 0)
        on_posts(first, rc, NULL);
}

void queue_posts_init(struct queue_posts *p, struct queue *q, struct loop *loop,
                      struct redis_async *r) {
    *p = (struct queue_posts){.queue = q, .loop = loop, .redis = r};
    p->last = &p->first;
    buf_init(&p->keys, POSTS_BYTES);
    buf_init(&p->args, POSTS_BYTES);
    buf_init(&p->json, JOB_JSON_BYTES);
    buf_init(&p->level, JOB_JSON_BYTES);
    buf_init(&p->facts, JOB_JSON_BYTES);
    p->flush = (struct loop_deferred){.call = on_flush_posts, .ctx = p};
}

void queue_posts_release(struct queue_posts *p) {
    buf_release(&p->keys);
    buf_release(&p->args);
    buf_release(&p->json);
    buf_release(&p->level);
    buf_release(&p->facts);
}

/* The arguments of one post; p->args.failed when they do not fit. */
static void add_post_args(struct queue_posts *p, const struct job *job, const char *seen,
                          struct str_view ack) {
    const char *const facts[] = {job->target, job->db_level, seen, job->filename};
    struct str_view json = json_of(&p->json, job);
    buf_clear(&p->level);
    buf_add_json(&p->level, str_view(job->db_level));
    buf_clear(&p->facts);
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++)
        buf_add(&p->facts, facts[i], strlen(facts[i]) + 1); /* with its NUL */
    p->facts.len -= !p->facts.failed;
    redis_add_arg(&p->args, json);
    redis_add_arg(&p->args, buf_view(&p->level));
    redis_add_arg(&p->args, buf_view(&p->facts));
    redis_add_arg(&p->args, ack);
    p->args.failed |= p->json.failed || p->level.failed || p->facts.failed;
}

int queue_post(struct queue_posts *p, struct queue_post *post, const struct job *job,
               const char *seen, struct str_view ack) {
    char text[JOB_CID_DIGITS];
    if (!redis_async_up(p->redis))
        return -ENOTCONN;
    size_t keys_len = p->keys.len;
    size_t args_len = p->args.len;
    if (p->n == 0)
        redis_add_arg(&p->args, str_from_u64(text, (uint64_t)p->queue->done_ttl_ms));
    redis_add_arg(&p->keys, str_from_u64(text, job->cid));
    add_post_args(p, job, seen, ack);
    if (p->keys.failed || p->args.failed) { /* the posts before it stay as they are */
        p->keys.len = keys_len;
        p->args.len = args_len;
        p->keys.failed = p->args.failed = false;
        return p->json.failed ? -EMSGSIZE : -ENOBUFS;
    }
    post->posts = p;
    post->job = job;
    post->next = NULL;
    *p->last = post;
    p->last = &post->next;
    p->n++;
    loop_defer(p->loop, &p->flush);
    return 0;
}

int queue_peek(struct queue *q, struct redis_async *r, uint64_t cid, redis_done_fn *done,
               void *ctx) {
    return eval_async(q, r, QUEUE_PEEK, cid, NULL, 0, done, ctx);
}

void queue_peek_reply(const redis_reply *reply, struct queue_peek *out) {
    *out = (struct queue_peek){
        .has_json = !redis_is_nil(redis_at(reply, 0)),
        .has_job = !redis_is_nil(redis_at(reply, 1)),
        .json = redis_text(redis_at(reply, 0)),
        .state = redis_text(redis_at(reply, 1)),
        .src = redis_text(redis_at(reply, 2)),
        .target = redis_text(redis_at(reply, 3)),
        .seen = redis_text(redis_at(reply, 4)),
        .filename = redis_text(redis_at(reply, 5)),
        .rev = redis_text(redis_at(reply, 6)),
        .path = redis_text(redis_at(reply, 7)),
        .is_foreign = redis_int(redis_at(reply, 8)) == 1,
    };
}

int queue_committed(struct queue *q, struct redis_async *r, uint64_t cid, const char *rev,
                    const char *seen, redis_done_fn *done, void *ctx) {
    struct str_view args[] = {str_view(rev), str_view(seen)};
    return eval_async(q, r, QUEUE_COMMITTED, cid, args, 2, done, ctx);
}

int queue_taken(struct queue *q, struct redis_async *r, uint64_t cid, struct str_view json,
                const char *from, const char *to, const char *seen, redis_done_fn *done,
                void *ctx) {
    char ttl[JOB_CID_DIGITS];
    struct str_view args[] = {json, str_view(from), str_view(to), str_view(seen),
                              str_from_u64(ttl, (uint64_t)kept_ms(q))};
    return eval_async(q, r, QUEUE_TAKEN, cid, args, 5, done, ctx);
}

int queue_replan(struct queue *q, struct redis_async *r, uint64_t cid, const char *rev,
                 const char *seen, redis_done_fn *done, void *ctx) {
    struct str_view args[] = {str_view(rev), str_view(seen)};
    return eval_async(q, r, QUEUE_REPLAN, cid, args, 2, done, ctx);
}

int queue_add(struct queue *q, struct redis_async *r, uint64_t cid, redis_done_fn *done,
              void *ctx) {
    struct str_view args[] = {{"", 0}, {"", 0}};
    return eval_async(q, r, QUEUE_ADD, cid, args, 2, done, ctx);
}

/* ---- the worker's side ---- */

static int eval(struct queue *q, struct redis *r, enum queue_script script, uint64_t cid,
                const struct str_view *args, size_t n, redis_reply **reply) {
    char text[JOB_CID_DIGITS];
    struct str_view key = str_from_u64(text, cid);
    return redis_eval(r, &q->scripts[script], &key, 1, args, n, reply);
}

/* ---- batches of what is told about claims ---- */

void queue_batch_init(struct queue_batch *b, struct queue *q, const char *worker_id) {
    *b = (struct queue_batch){.queue = q, .worker_id = worker_id};
    redis_batch_init(&b->calls);
}

void queue_batch_release(struct queue_batch *b) {
    redis_batch_release(&b->calls);
    free(b->verdicts);
    b->verdicts = NULL;
    b->cap = 0;
}

bool queue_batch_empty(const struct queue_batch *b) {
    return b->calls.n == 0;
}

static void on_verdict(void *ctx, size_t i, int rc, const redis_reply *reply) {
    const struct queue_batch *b = ctx;
    struct str_view how = redis_text(reply);
    *b->verdicts[i] = rc < 0                   ? rc
                      : str_is(how, "ok")      ? 0
                      : str_is(how, "changed") ? -ECANCELED
                      : str_is(how, "taken")   ? -EALREADY
                                               : -ESTALE;
}

void queue_batch_run(struct queue_batch *b, struct redis *r) {
    if (r) {
        redis_batch_run(r, &b->calls, on_verdict, b);
        return;
    }
    for (size_t i = 0; i < b->calls.n; i++)
        *b->verdicts[i] = -ENOTCONN;
    redis_batch_clear(&b->calls);
}

/* Adds a script that answers "ok", "lost" or "changed". */
static void add_call(struct queue_batch *b, enum queue_script script, const struct lease *lease,
                     const struct str_view *more, size_t n_more, int *verdict) {
    struct str_view args[REDIS_MAX_ARGS];
    char token[JOB_CID_DIGITS], cid[JOB_CID_DIGITS];
    *verdict = -ENOMEM;
    if (b->calls.n == b->cap) {
        size_t cap = b->cap ? 2 * b->cap : 16;
        int **verdicts = realloc(b->verdicts, cap * sizeof *verdicts);
        if (!verdicts)
            return;
        b->verdicts = verdicts;
        b->cap = cap;
    }
    args[0] = str_view(b->worker_id);
    args[1] = str_from_u64(token, lease->token);
    memcpy(args + 2, more, n_more * sizeof *more);
    int i = redis_batch_eval(&b->calls, &b->queue->scripts[script], str_from_u64(cid, lease->cid),
                             args, 2 + n_more);
    if (i >= 0)
        b->verdicts[i] = verdict;
}

static void copy_text(char *dst, size_t cap, struct str_view v) {
    if (str_copy(dst, cap, v) < 0)
        dst[0] = '\0'; /* not of our making; the caller finds it empty */
}

static void read_spare(struct lease *l, struct str_view level, struct str_view since) {
    if (l->n_spares == QUEUE_MAX_SPARES)
        return;
    struct spare *s = &l->spares[l->n_spares++];
    copy_text(s->level, sizeof s->level, level);
    s->since_ms = 0;
    (void)str_u64(since, INT64_MAX, &s->since_ms);
}

static void read_field(struct lease *l, struct str_view key, struct str_view value) {
    if (str_is(key, "state"))
        l->state = job_state_parse(value);
    else if (str_is(key, "rev"))
        copy_text(l->rev, sizeof l->rev, value);
    else if (str_is(key, "src"))
        copy_text(l->src, sizeof l->src, value);
    else if (str_is(key, "target"))
        copy_text(l->target, sizeof l->target, value);
    else if (str_is(key, "seen"))
        copy_text(l->seen, sizeof l->seen, value);
    else if (str_is(key, "was"))
        copy_text(l->was, sizeof l->was, value);
    else if (str_is(key, "made"))
        copy_text(l->made, sizeof l->made, value);
    else if (str_is(key, "from"))
        copy_text(l->from, sizeof l->from, value);
    else if (str_is(key, "to"))
        copy_text(l->to, sizeof l->to, value);
    else if (str_is(key, "name"))
        copy_text(l->name, sizeof l->name, value);
    else if (str_is(key, "path"))
        copy_text(l->path, sizeof l->path, value);
    else if (str_is(key, "taken"))
        copy_text(l->taken, sizeof l->taken, value);
    else if (str_is(key, "attempts"))
        (void)str_u64(value, UINT64_MAX, &l->attempts);
    else if (str_is(key, "waits"))
        (void)str_u64(value, UINT64_MAX, &l->waits);
    else if (str_is(key, "crashes"))
        (void)str_u64(value, UINT64_MAX, &l->crashes);
    else if (key.len > 6 && memcmp(key.ptr, "spare:", 6) == 0)
        read_spare(l, (struct str_view){key.ptr + 6, key.len - 6}, value);
}

static int read_lease(const redis_reply *reply, struct lease *l) {
    const redis_reply *fields = redis_at(reply, 3);
    memset(l, 0, offsetof(struct lease, json));
    l->json[0] = '\0';
    if (job_cid_parse(redis_text(redis_at(reply, 0)), &l->cid) < 0 ||
        str_u64(redis_text(redis_at(reply, 1)), UINT64_MAX, &l->token) < 0 ||
        str_u64(redis_text(redis_at(reply, 4)), INT64_MAX, &l->claimed_ms) < 0)
        return -EPROTO;
    copy_text(l->json, sizeof l->json, redis_text(redis_at(reply, 2)));
    for (size_t i = 0; i + 1 < redis_len(fields); i += 2)
        read_field(l, redis_text(redis_at(fields, i)), redis_text(redis_at(fields, i + 1)));
    return 0;
}

int queue_claim(struct queue *q, struct redis *r, const char *worker_id, int64_t lease_ms,
                const struct queue_terms *terms, struct lease *leases, size_t most,
                int64_t *wait_ms) {
    char ms[JOB_CID_DIGITS], opens[JOB_CID_DIGITS], jobs[JOB_CID_DIGITS], want[JOB_CID_DIGITS];
    struct str_view key = str_view("tierd:due");
    struct str_view args[] = {str_view(worker_id),
                              str_from_u64(ms, (uint64_t)lease_ms),
                              terms->opens_ms > 0 ? str_from_u64(opens, (uint64_t)terms->opens_ms)
                                                  : str_view(""),
                              str_from_u64(jobs, (uint64_t)terms->level_jobs),
                              str_view(terms->reach),
                              str_from_u64(want, most)};
    redis_reply *reply;
    int rc = redis_eval(r, &q->scripts[QUEUE_CLAIM], &key, 1, args, 6, &reply);
    if (rc < 0)
        return rc;
    size_t n = 0;
    *wait_ms = redis_int(reply);
    for (size_t i = 0; i < redis_len(reply) && n < most; i++)
        n += read_lease(redis_at(reply, i), &leases[n]) == 0; /* what is no cid is passed over */
    redis_reply_free(reply);
    return (int)n;
}

/* An integer reply or -errno. */
static int call_int(struct redis *r, const struct str_view *args, size_t n) {
    redis_reply *reply;
    int rc = redis_call(r, args, n, &reply);
    if (rc < 0)
        return rc;
    rc = redis_is_nil(reply)                         ? 0
         : redis_len(reply) || redis_text(reply).len ? 1
                                                     : (int)redis_int(reply);
    redis_reply_free(reply);
    return rc;
}

/* "lock:<cid>" and "tierd:job:<cid>". */
struct cid_keys {
    char lock[JOB_CID_DIGITS + 8], job[JOB_CID_DIGITS + 12];
};

static struct cid_keys keys_of(uint64_t cid) {
    struct cid_keys k;
    snprintf(k.lock, sizeof k.lock, "lock:%" PRIu64, cid);
    snprintf(k.job, sizeof k.job, "tierd:job:%" PRIu64, cid);
    return k;
}

int queue_busy(struct redis *r, uint64_t cid) {
    char text[JOB_CID_DIGITS];
    struct cid_keys k = keys_of(cid);
    struct str_view exists[] = {str_view("EXISTS"), str_view(k.lock)};
    struct str_view state[] = {str_view("HGET"), str_view(k.job), str_view("state")};
    struct str_view due[] = {str_view("ZSCORE"), str_view("tierd:due"), str_from_u64(text, cid)};
    redis_reply *reply;
    int rc = call_int(r, exists, 2);
    if (rc != 0)
        return rc < 0 ? rc : QUEUE_HELD;
    rc = redis_call(r, state, 3, &reply);
    if (rc < 0)
        return rc;
    enum job_state at = job_state_parse(redis_text(reply));
    redis_reply_free(reply);
    if (at == JOB_STATE_NONE) { /* posted, and not claimed yet */
        rc = call_int(r, due, 3);
        return rc <= 0 ? rc : QUEUE_WAITS;
    }
    return job_state_phase(at) != JOB_PHASE_ENDED ? QUEUE_WAITS : QUEUE_IDLE;
}

int queue_dones(struct queue *q, struct redis *r, uint64_t *cursor,
                void (*each)(void *ctx, uint64_t cid, struct str_view json), void *ctx) {
    char text[JOB_CID_DIGITS];
    struct str_view key = str_view("tierd:due");
    struct str_view args[] = {str_from_u64(text, *cursor), str_view(SCAN_KEYS)};
    redis_reply *reply;
    int rc = redis_eval(r, &q->scripts[QUEUE_DONES], &key, 1, args, 2, &reply);
    if (rc < 0)
        return rc;
    uint64_t next = 0, cid;
    (void)str_u64(redis_text(redis_at(reply, 0)), UINT64_MAX, &next);
    for (size_t i = 1; i + 1 < redis_len(reply); i += 2)
        if (job_cid_parse(redis_text(redis_at(reply, i)), &cid) == 0)
            each(ctx, cid, redis_text(redis_at(reply, i + 1)));
    redis_reply_free(reply);
    *cursor = next;
    return 0;
}

int queue_look(struct queue *q, struct redis *r, uint64_t cid) {
    struct str_view args[] = {{"", 0}, {"", 0}};
    redis_reply *reply;
    int rc = eval(q, r, QUEUE_ADD, cid, args, 2, &reply);
    if (rc == 0)
        redis_reply_free(reply);
    return rc;
}

int queue_lock(struct redis *r, uint64_t cid, const char *holder, int64_t lease_ms) {
    char ms[JOB_CID_DIGITS];
    struct cid_keys k = keys_of(cid);
    struct str_view args[] = {str_view("SET"),  str_view(k.lock),
                              str_view(holder), str_view("NX"),
                              str_view("PX"),   str_from_u64(ms, (uint64_t)lease_ms)};
    return call_int(r, args, 6);
}

int queue_unlock(struct queue *q, struct redis *r, uint64_t cid, const char *holder) {
    struct str_view arg = str_view(holder);
    redis_reply *reply;
    int rc = eval(q, r, QUEUE_UNLOCK, cid, &arg, 1, &reply);
    if (rc == 0)
        redis_reply_free(reply);
    return rc;
}

int queue_spare(struct queue *q, struct redis *r, uint64_t cid, const char *level,
                const char *spare) {
    struct str_view args[] = {str_view(level), str_view(spare)};
    redis_reply *reply;
    int rc = eval(q, r, QUEUE_SPARE, cid, args, 2, &reply);
    if (rc < 0)
        return rc;
    rc = (int)redis_int(reply);
    redis_reply_free(reply);
    return rc;
}

/* A script about a gate; its integer reply or -errno. */
static int64_t eval_gate(struct queue *q, struct redis *r, enum queue_script script,
                         const char *gate, struct str_view arg, const char *why) {
    struct str_view key = str_view("tierd:paused");
    struct str_view args[] = {str_view(gate), arg, str_view(why)};
    redis_reply *reply;
    int rc = redis_eval(r, &q->scripts[script], &key, 1, args, 3, &reply);
    if (rc < 0)
        return rc;
    int64_t n = redis_int(reply);
    redis_reply_free(reply);
    return n;
}

int queue_full(struct queue *q, struct redis *r, const char *level, int64_t for_ms,
               const char *why) {
    char ms[JOB_CID_DIGITS];
    int64_t rc = eval_gate(q, r, QUEUE_PAUSE, level, str_from_u64(ms, (uint64_t)for_ms), why);
    return rc < 0 ? (int)rc : 0;
}

int queue_pause(struct queue *q, struct redis *r, const char *gate, int64_t for_ms) {
    return queue_full(q, r, gate, for_ms, "");
}

int64_t queue_resume(struct queue *q, struct redis *r, const char *gate) {
    char most[JOB_CID_DIGITS];
    int64_t freed = 0, n;
    do { /* in batches, so that Redis answers others in between */
        n = eval_gate(q, r, QUEUE_RESUME, gate, str_from_u64(most, RESUME_BATCH), "");
        freed += n > 0 ? n : 0;
    } while (n == RESUME_BATCH);
    return n < 0 ? n : freed;
}

int queue_begin(struct queue *q, struct redis *r, struct lease *lease, const char *worker_id,
                const struct job *job, const char *seen, struct str_view read_json,
                const char *stale) {
    char token[JOB_CID_DIGITS];
    redis_reply *reply;
    struct buf head;
    buf_init(&head, JOB_JSON_BYTES);
    job_write_head(&head, job);
    struct str_view args[] = {str_view(worker_id),     str_from_u64(token, lease->token),
                              buf_view(&head),         str_view(job->db_level),
                              str_view(job->target),   str_view(seen),
                              str_view(job->filename), read_json,
                              str_view(lease->rev),    str_view(stale ? stale : "")};
    int rc = head.failed
                 ? -EMSGSIZE
                 : eval(q, r, QUEUE_BEGIN, lease->cid, args, sizeof args / sizeof *args, &reply);
    buf_release(&head);
    if (rc < 0)
        return rc;
    if (redis_len(reply) == 2) {
        copy_text(lease->rev, sizeof lease->rev, redis_text(redis_at(reply, 1)));
        rc = 0;
    } else {
        rc = -ESTALE;
    }
    redis_reply_free(reply);
    return rc;
}

void queue_renew(struct queue_batch *b, const struct lease *lease, int64_t lease_ms,
                 const char *spare, int *verdict) {
    const struct progress *p = &lease->progress;
    char ms[JOB_CID_DIGITS], n[5][JOB_CID_DIGITS];
    struct str_view more[] = {str_view(lease->rev),
                              str_from_u64(ms, (uint64_t)lease_ms),
                              str_view(spare ? spare : ""),
                              str_from_u64(n[0], p->done_bytes),
                              str_from_u64(n[1], p->total_bytes),
                              str_from_u64(n[2], p->bytes_per_s),
                              str_from_u64(n[3], p->untold_bytes),
                              str_from_u64(n[4], lease->claimed_ms)};
    add_call(b, QUEUE_RENEW, lease, more, sizeof more / sizeof *more, verdict);
}

void queue_done(struct queue_batch *b, const struct lease *lease, int64_t took_ms, int *verdict) {
    char n[3][JOB_CID_DIGITS];
    struct str_view more[] = {str_view(lease->rev),
                              str_from_u64(n[0], lease->progress.done_bytes),
                              str_from_u64(n[1], lease->progress.untold_bytes),
                              str_from_u64(n[2], (uint64_t)took_ms),
                              str_view(lease->seen),
                              str_view(lease->was),
                              str_view(lease->made),
                              str_view(lease->target),
                              str_view(lease->name),
                              str_view(lease->path)};
    add_call(b, QUEUE_DONE, lease, more, sizeof more / sizeof *more, verdict);
}

void queue_finish(struct queue_batch *b, const struct lease *lease, const char *const *retired,
                  size_t n_retired, int *verdict) {
    char ttl[JOB_CID_DIGITS];
    struct str_view more[1 + QUEUE_MAX_SPARES];
    more[0] = str_from_u64(ttl, (uint64_t)kept_ms(b->queue));
    for (size_t i = 0; i < n_retired && i < QUEUE_MAX_SPARES; i++)
        more[1 + i] = str_view(retired[i]);
    add_call(b, QUEUE_FINISH, lease, more, 1 + n_retired, verdict);
}

static void add_release(struct queue_batch *b, const struct lease *lease, int64_t delay_ms,
                        enum queue_counts counts, const char *error, bool no_room, int *verdict) {
    static const char *const as[] = {"0", "1", "", "2"};
    char ms[JOB_CID_DIGITS];
    struct str_view more[] = {str_from_u64(ms, (uint64_t)delay_ms), str_view(as[counts]),
                              str_view(error), str_view(no_room ? "1" : "0")};
    add_call(b, QUEUE_RELEASE, lease, more, 4, verdict);
}

void queue_release(struct queue_batch *b, const struct lease *lease, int64_t delay_ms,
                   enum queue_counts counts, const char *error, int *verdict) {
    add_release(b, lease, delay_ms, counts, error, false, verdict);
}

void queue_no_room(struct queue_batch *b, const struct lease *lease, int64_t delay_ms,
                   const char *error, int *verdict) {
    add_release(b, lease, delay_ms, QUEUE_COUNTS_WAIT, error, true, verdict);
}

void queue_fail(struct queue_batch *b, const struct lease *lease, enum job_status status,
                const char *error, const char *drop_spare, int *verdict) {
    struct buf json;
    buf_init(&json, 6 * JOB_ERROR_BYTES);
    buf_add_json(&json, str_view(error));
    struct str_view more[] = {str_view(job_status_name(status)), buf_view(&json), str_view(error),
                              str_view(drop_spare ? drop_spare : ""), str_view(lease->rev)};
    *verdict = -ENOMEM;
    if (!json.failed)
        add_call(b, QUEUE_FAIL, lease, more, 5, verdict);
    buf_release(&json);
}

/* Decides on one candidate of the scan; true when it is worth reporting. */
static bool judge_found(struct queue *q, struct redis *r, struct str_view json,
                        struct queue_found *found) {
    struct job job;
    redis_reply *reply;
    found->why = job_read(json, found->cid, &job);
    found->is_job = found->why == JOB_OK;
    if (found->is_job && job.status != JOB_UPDATE)
        return false;
    struct str_view args[] = {str_view(found->is_job ? "" : "bad"), json};
    if (eval(q, r, QUEUE_ADD, found->cid, args, 2, &reply) < 0)
        return false;
    bool new = redis_int(reply) == 1;
    redis_reply_free(reply);
    return new;
}

int queue_scan(struct queue *q, struct redis *r, const char *worker_id, int64_t turn_ms,
               int64_t rest_ms, uint64_t *cursor, struct queue_found found[QUEUE_SCAN_MAX],
               size_t *n_found) {
    char n[3][JOB_CID_DIGITS];
    struct str_view key = str_view("tierd:due");
    struct str_view args[] = {str_from_u64(n[0], *cursor), str_view(SCAN_KEYS), str_view(worker_id),
                              str_from_u64(n[1], (uint64_t)turn_ms),
                              str_from_u64(n[2], (uint64_t)rest_ms)};
    redis_reply *reply;
    int rc = redis_eval(r, &q->scripts[QUEUE_SCAN], &key, 1, args, 5, &reply);
    if (rc < 0)
        return rc;
    *n_found = 0;
    uint64_t next = 0;
    (void)str_u64(redis_text(redis_at(reply, 0)), UINT64_MAX, &next);
    for (size_t i = 1; i + 1 < redis_len(reply) && *n_found < QUEUE_SCAN_MAX; i += 2) {
        struct queue_found *f = &found[*n_found];
        if (job_cid_parse(redis_text(redis_at(reply, i)), &f->cid) == 0 &&
            judge_found(q, r, redis_text(redis_at(reply, i + 1)), f))
            (*n_found)++;
    }
    redis_reply_free(reply);
    *cursor = next;
    return 0;
}

int queue_sleep(struct redis *r, int64_t wait_ms, const void *sigmask) {
    char seconds[32];
    snprintf(seconds, sizeof seconds, "%.3f", (double)(wait_ms > 0 ? wait_ms : 1) / 1000.0);
    struct str_view args[] = {str_view("BLPOP"), str_view("tierd:wake"), str_view(seconds)};
    struct pollfd p = {.events = POLLIN};
    int rc = redis_start(r, args, 3, &p.fd);
    if (rc < 0)
        return rc;
    /* Redis ends the wait; if it does not, it is away. */
    int64_t limit_ms = wait_ms + 2000;
    struct timespec ts = {limit_ms / 1000, (long)(limit_ms % 1000) * 1000000};
    int n = ppoll(&p, 1, &ts, sigmask);
    if (n < 0)
        return -errno;
    if (n == 0)
        return -ETIMEDOUT;
    redis_reply *reply;
    rc = redis_finish(r, &reply);
    if (rc == 0)
        redis_reply_free(reply);
    return rc;
}

int queue_wake(struct redis *r) {
    struct str_view args[] = {str_view("LPUSH"), str_view("tierd:wake"), str_view("1")};
    redis_reply *reply;
    int rc = redis_call(r, args, 3, &reply);
    if (rc < 0)
        return rc;
    redis_reply_free(reply);
    struct str_view trim[] = {str_view("LTRIM"), str_view("tierd:wake"), str_view("0"),
                              str_view("0")};
    rc = redis_call(r, trim, 4, &reply);
    if (rc == 0)
        redis_reply_free(reply);
    return rc;
}

int queue_level_ids(struct redis *r,
                    void (*each)(void *ctx, struct str_view level, struct str_view id), void *ctx) {
    struct str_view args[] = {str_view("HGETALL"), str_view("tierd:levels")};
    redis_reply *reply;
    int rc = redis_call(r, args, 2, &reply);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i + 1 < redis_len(reply); i += 2)
        each(ctx, redis_text(redis_at(reply, i)), redis_text(redis_at(reply, i + 1)));
    redis_reply_free(reply);
    return 0;
}

int queue_level_know(struct redis *r, const char *level, const char *id, bool replace) {
    struct str_view args[] = {str_view(replace ? "HSET" : "HSETNX"), str_view("tierd:levels"),
                              str_view(level), str_view(id)};
    redis_reply *reply;
    int rc = redis_call(r, args, 4, &reply);
    if (rc == 0)
        redis_reply_free(reply);
    return rc;
}
