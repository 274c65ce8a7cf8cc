-- Whether Redis is as the queue needs it. KEYS has none.
-- Answers a list, AMISS of each thing that is not.
--@include amiss
--@include now
--@include wake
--@include watch
--@include whole
local out = {}
local function tell(...) if #out < AMISS_MOST then out[#out + 1] = amiss(...) end end
local function hold(grade, key, want)
  local is = redis.call('TYPE', key).ok
  if is == 'none' or is == want then return is == want end
  tell(grade, key, is, want)
end
local function number(grade, key)
  if hold(grade, key, 'string') and (redis.call('STRLEN', key) > 18 or
      not string.find(redis.call('GET', key), '^%d+$')) then
    tell(grade, key, 'text', 'number')
  end
end
-- redis.acl_check_cmd came with Redis 7.0; before, the first refusal tells. A command that it
-- refuses is then called for the server's words: refused, it has no effect.
local function may(...)
  if not redis.acl_check_cmd or redis.acl_check_cmd(...) then return end
  local blocks = (...) == 'BLPOP' -- which a script may not call in any case
  local said = not blocks and redis.pcall(...)
  tell(GRADE_STOPS, table.concat({...}, ' '), type(said) == 'table' and said.err or 'NOPERM')
end
local job, parked, log = KEY_JOB .. '1', KEY_PARKED .. 'x', KEY_LOG .. '1'
may('PING')
may('TIME')
may('TYPE', '1')
may('EXISTS', '1')
may('DEL', job)
may('PTTL', KEY_LOCK .. '1')
may('PEXPIRE', '1', '1')
may('SCAN', '0')
may('GET', '1')
may('MGET', '1')
may('GETRANGE', '1', '0', '0')
may('STRLEN', '1')
may('SET', '1', 'x')
may('MSET', '1', 'x')
may('SET', KEY_LOCK .. '1', 'x')
may('INCR', KEY_TOKEN)
may('HGET', job, 'x')
may('HMGET', job, 'x')
may('HGETALL', job)
may('HKEYS', job)
may('HVALS', KEY_WORKERS)
may('HLEN', KEY_FOREIGN)
may('HEXISTS', job, 'x')
may('HSET', job, 'x', 'x')
may('HSETNX', job, 'x', 'x')
may('HDEL', job, 'x')
may('HINCRBY', job, 'x', '1')
may('ZADD', KEY_DUE, '1', '1')
may('ZREM', KEY_DUE, '1')
may('ZCARD', KEY_DUE)
may('ZCOUNT', KEY_DUE, '1', '1')
may('ZSCORE', KEY_DUE, '1')
may('ZRANGE', KEY_DUE, '0', '0')
may('ZRANGEBYSCORE', KEY_DUE, '1', '1')
may('ZREMRANGEBYSCORE', KEY_ACTIVE .. 'x', '1', '1')
may('ZPOPMIN', parked)
may('SADD', KEY_ROUTES, 'x')
may('SREM', KEY_ROUTES, 'x')
may('SMEMBERS', KEY_ROUTES)
may('LPUSH', KEY_WAKE, '1')
may('LTRIM', KEY_WAKE, '0', '0')
may('BLPOP', KEY_WAKE, '0')
may('LRANGE', log, '0', '0')
may('RPOP', log)
may('XADD', KEY_EVENTS, '*', 'x', 'x')
may('XREVRANGE', KEY_EVENTS, '+', '-')
hold(GRADE_STOPS, KEY_DUE, 'zset')
local gates = hold(GRADE_STOPS, KEY_PAUSED, 'hash')
local routes = hold(GRADE_STOPS, KEY_ROUTES, 'set')
number(GRADE_STOPS, KEY_TOKEN)
hold(GRADE_STOPS, KEY_LEVELS, 'hash')
number(GRADE_WATCH, KEY_CLOCK)
hold(GRADE_WATCH, KEY_WAKE, 'list')
hold(GRADE_WATCH, KEY_SCAN, 'string')
hold(GRADE_WATCH, KEY_DEAD, 'zset')
hold(GRADE_WATCH, KEY_CONFLICT, 'zset')
hold(GRADE_WATCH, KEY_PROGRESS, 'hash')
hold(GRADE_WATCH, KEY_EVENTS, 'stream')
hold(GRADE_WATCH, KEY_ERRORS, 'stream')
hold(GRADE_WATCH, KEY_STATS, 'hash')
hold(GRADE_WATCH, KEY_RATES, 'hash')
hold(GRADE_WATCH, KEY_FULL, 'hash')
hold(GRADE_WATCH, KEY_SHORT, 'hash')
hold(GRADE_WATCH, KEY_WORKERS, 'hash')
hold(GRADE_WATCH, KEY_TROUBLE, 'hash')
local use = hold(GRADE_WATCH, KEY_USE, 'hash')
-- those with the name of a level, a gate or a host in theirs
local seen = {}
local function once(key, want)
  if #out < AMISS_MOST and not seen[key] then hold(GRADE_WATCH, key, want) end
  seen[key] = true
end
for _, level in ipairs(use and redis.call('HKEYS', KEY_USE) or {}) do
  once(KEY_PARKED .. level, 'zset')
  once(KEY_PARKED .. GATE_BUSY .. level, 'zset')
  once(KEY_ACTIVE .. level, 'zset')
  once(KEY_SHORT_JOBS .. level, 'zset')
end
once(KEY_PARKED .. GATE_ALL, 'zset')
once(KEY_PARKED .. GATE_WINDOW, 'zset')
for _, gate in ipairs(gates and redis.call('HKEYS', KEY_PAUSED) or {}) do
  once(KEY_PARKED .. gate, 'zset')
end
for _, gate in ipairs(routes and redis.call('SMEMBERS', KEY_ROUTES) or {}) do
  once(KEY_PARKED .. gate, 'zset')
end
-- and those that scripts met; one that is mended may be what its content waited for
local met = hold(GRADE_WATCH, KEY_FOREIGN, 'hash') and redis.call('HGETALL', KEY_FOREIGN) or {}
for i = 1, #met, 2 do
  local key, want = met[i], met[i + 1]
  local is = redis.call('TYPE', key).ok
  local text_of_job = want == 'job' and is == 'string'
  local large = text_of_job and (redis.call('STRLEN', key) > JOB_JSON_BYTES or
    string.find(redis.call('GET', key), '%z') ~= nil)
  if large or (is ~= 'none' and is ~= want and not text_of_job) then
    tell(GRADE_WATCH, key, is, want)
  else
    watch('HDEL', KEY_FOREIGN, key)
    watch('ZADD', KEY_DUE, 'XX', whole(now), string.match(key, '%d+$') or key)
    wake()
  end
end
return out
