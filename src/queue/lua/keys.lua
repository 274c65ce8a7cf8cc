-- An element is {'stops' or 'watch', key, type, wanted type}, or {'stops', command, the server's
-- words} for a command that our user may not use. redis.acl_check_cmd came with Redis 7.0; before,
-- the first refusal tells. A command that it refuses is then called for the server's words:
-- refused, it has no effect.
--@include watch
local out = {}
local function tell(...) if #out < AMISS_MOST then out[#out + 1] = {...} end end
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
local function may(...)
  if not redis.acl_check_cmd or redis.acl_check_cmd(...) then return end
  local blocks = (...) == 'BLPOP' -- which a script may not call in any case
  local said = not blocks and redis.pcall(...)
  tell('stops', table.concat({...}, ' '), type(said) == 'table' and said.err or 'NOPERM')
end
for line in string.gmatch([[
  PING|TIME|TYPE 1|EXISTS 1|DEL tierd:job:1|PTTL lock:1|PEXPIRE 1 1|SCAN 0|GET 1|MGET 1
  GETRANGE 1 0 0|STRLEN 1|SET 1 x|MSET 1 x|SET lock:1 x|INCR tierd:token
  HGET tierd:job:1 x|HMGET tierd:job:1 x|HGETALL tierd:job:1|HKEYS tierd:job:1
  HVALS tierd:workers|HLEN tierd:foreign|HEXISTS tierd:job:1 x|HSET tierd:job:1 x x
  HSETNX tierd:job:1 x x|HDEL tierd:job:1 x|HINCRBY tierd:job:1 x 1
  ZADD tierd:due 1 1|ZREM tierd:due 1|ZCARD tierd:due|ZCOUNT tierd:due 1 1
  ZSCORE tierd:due 1|ZRANGE tierd:due 0 0|ZRANGEBYSCORE tierd:due 1 1
  ZREMRANGEBYSCORE tierd:active:x 1 1|ZPOPMIN tierd:parked:x
  SADD tierd:routes x|SREM tierd:routes x|SMEMBERS tierd:routes
  LPUSH tierd:wake 1|LTRIM tierd:wake 0 0|BLPOP tierd:wake 0|LRANGE tierd:log:1 0 0
  RPOP tierd:log:1|XADD tierd:events * x x|XREVRANGE tierd:events + -
]], '[^|\n]+') do
  local words = {}
  for w in string.gmatch(line, '%S+') do words[#words + 1] = w end
  if words[1] then may(unpack(words)) end
end
hold('stops', KEY_DUE, 'zset')
local gates = hold('stops', KEY_PAUSED, 'hash')
local routes = hold('stops', KEY_ROUTES, 'set')
number('stops', KEY_TOKEN)
hold('stops', KEY_LEVELS, 'hash')
number('watch', KEY_CLOCK)
hold('watch', KEY_WAKE, 'list')
hold('watch', KEY_SCAN, 'string')
hold('watch', KEY_DEAD, 'zset')
hold('watch', KEY_CONFLICT, 'zset')
hold('watch', KEY_PROGRESS, 'hash')
hold('watch', KEY_EVENTS, 'stream')
hold('watch', KEY_ERRORS, 'stream')
hold('watch', KEY_STATS, 'hash')
hold('watch', KEY_RATES, 'hash')
hold('watch', KEY_FULL, 'hash')
hold('watch', KEY_SHORT, 'hash')
hold('watch', KEY_WORKERS, 'hash')
hold('watch', KEY_TROUBLE, 'hash')
local use = hold('watch', KEY_USE, 'hash')
-- those with the name of a level, a gate or a host in theirs
local seen = {}
local function once(key, want)
  if #out < AMISS_MOST and not seen[key] then hold('watch', key, want) end
  seen[key] = true
end
for _, name in ipairs(use and redis.call('HKEYS', KEY_USE) or {}) do
  once(KEY_PARKED .. name, 'zset')
  once(KEY_PARKED .. GATE_BUSY .. name, 'zset')
  once(KEY_ACTIVE .. name, 'zset')
  once(KEY_SHORT_JOBS .. name, 'zset')
end
once(KEY_PARKED .. GATE_ALL, 'zset')
once(KEY_PARKED .. GATE_WINDOW, 'zset')
for _, name in ipairs(gates and redis.call('HKEYS', KEY_PAUSED) or {}) do
  once(KEY_PARKED .. name, 'zset')
end
for _, name in ipairs(routes and redis.call('SMEMBERS', KEY_ROUTES) or {}) do
  once(KEY_PARKED .. name, 'zset')
end
-- and those that scripts met; one that is mended may be what its content waited for
local met = hold('watch', KEY_FOREIGN, 'hash') and redis.call('HGETALL', KEY_FOREIGN) or {}
for i = 1, #met, 2 do
  local key, want = met[i], met[i + 1]
  local is = redis.call('TYPE', key).ok
  local large = want == 'job' and is == 'string' and
    (redis.call('STRLEN', key) > JOB_JSON_BYTES or
     string.find(redis.call('GET', key), '%z') ~= nil)
  if large or (is ~= 'none' and is ~= want and not (want == 'job' and is == 'string')) then
    tell('watch', key, is, want)
  else
    watch('HDEL', KEY_FOREIGN, key)
    local t = redis.call('TIME')
    watch('ZADD', KEY_DUE, 'XX',
      string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000)),
      string.match(key, '%d+$') or key)
    if watch('EXISTS', KEY_WAKE) == 0 then watch('LPUSH', KEY_WAKE, '1') end
  end
end
return out
