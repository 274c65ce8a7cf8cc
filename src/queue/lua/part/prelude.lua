-- KEYS[1] is the cid. Every script begins so.
--
-- Nothing is rolled back when a script dies half way,
-- and any key of ours may hold somebody else's text. So what a job needs is asked for, or written
-- first of all where it is tierd:due; what only people watch, or can be done without, goes through
-- watch() (job/keys).
--@include watch
--@include says_done
local cid = KEYS[1]
local job = KEY_JOB .. cid
local lock = KEY_LOCK .. cid
local at
local function now()
  if not at then
    local t = redis.call('TIME')
    at = t[1] * 1000 + math.floor(t[2] / 1000)
  end
  return at
end
-- whether what stands in the JSON's place is ours to rewrite: another program may have written a
-- new one, or something else altogether
local function own(head)
  local stands = head and redis.pcall('GETRANGE', cid, 0, #head - 1)
  return stands and (stands == '' or stands == head)
end
local function stands_done()
  local stands = redis.pcall('GETRANGE', cid, 0, JOB_JSON_BYTES)
  return type(stands) == 'string' and says_done(stands)
end
local function unpark(gate)
  if gate then
    watch('ZREM', KEY_PARKED .. gate, cid)
    redis.call('HDEL', job, 'gate')
  end
end
-- what is due is not parked: `gate` is the one that it was behind, or false
local function due(at, gate)
  redis.call('ZADD', KEY_DUE, string.format('%.0f', at), cid)
  unpark(gate)
end
local function wake()
  if watch('EXISTS', KEY_WAKE) == 0 then watch('LPUSH', KEY_WAKE, '1') end
end
local function has_spare()
  for _, f in ipairs(redis.call('HKEYS', job)) do
    if string.sub(f, 1, #FIELD_SPARE) == FIELD_SPARE then return true end
  end
  return false
end
local function put(head, worker, status, err)
  local w = worker and worker ~= '' and ('"' .. worker .. '"') or 'null'
  local j = head .. w .. ', "status": "' .. status .. '"'
  if err then j = j .. ', "error": ' .. err end
  j = j .. '}'
  redis.call('SET', cid, j)
  return j
end
local function no_longer_active(level)
  if not level then return end
  redis.call('HDEL', job, 'active')
  watch('ZREM', KEY_ACTIVE .. level, cid)
  local next = watch('ZPOPMIN', KEY_PARKED .. GATE_BUSY .. level)
  if next and next[1] then
    redis.call('ZADD', KEY_DUE, next[2], next[1])
    watch('HDEL', KEY_JOB .. next[1], 'gate')
    wake()
  end
end
