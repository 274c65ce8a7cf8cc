-- KEYS[1]: cid. ARGV: the JSON that was read, head, level, update_time, filename, ttl
--@include reading
local cid, head, level = KEYS[1], ARGV[2], ARGV[3]
local job = KEY_JOB .. cid
--@include note_at
local stands = watch('GETRANGE', cid, 0, JOB_JSON_BYTES) or ''
if stands ~= ARGV[1] then return 'changed' end
local h = redis.call('HMGET', job, 'state', 'src', 'worker', 'gate')
local state = h[1]
if state == 'done' then return 'late' end
if state == 'committed' or state == 'cancelled' then return 'nothing' end
if not state and not string.find(stands, '"update"', 1, true) and
   not string.find(stands, ', "error": ', 1, true) then return 'nothing' end
if state and h[2] ~= level then return 'changed' end
local spare = false
for _, f in ipairs(redis.call('HKEYS', job)) do
  spare = spare or string.sub(f, 1, #FIELD_SPARE) == FIELD_SPARE
end
local stops = state == 'claimed' and redis.call('EXISTS', KEY_LOCK .. cid) == 1
if not stops and spare then redis.call('ZADD', KEY_DUE, whole(now), cid)
elseif not stops then redis.call('ZREM', KEY_DUE, cid) end
note(now, 'cancel')
watch('ZREM', KEY_DEAD, cid)
watch('ZREM', KEY_CONFLICT, cid)
if stops then
  redis.call('HINCRBY', job, 'rev', 1)
  redis.call('HSET', job, 'target', level, 'head', head)
  redis.call('SET', cid, head .. '"' .. (h[3] or '') .. '", "status": "done"}')
  return 'stops'
end
redis.call('SET', cid, head .. 'null, "status": "done"}')
if h[4] then watch('ZREM', KEY_PARKED .. h[4], cid) end
if not spare then
  redis.call('DEL', job)
  if tonumber(ARGV[6]) > 0 then redis.call('PEXPIRE', cid, ARGV[6]) end
  return 'ok'
end
redis.call('HINCRBY', job, 'rev', 1)
redis.call('HDEL', job, 'error', 'attempts', 'crashes', 'waits', 'worker', 'gate')
redis.call('HSET', job, 'state', 'cancelled', 'head', head, 'src', level, 'target', level,
  'seen', ARGV[4], 'filename', ARGV[5])
if watch('EXISTS', KEY_WAKE) == 0 then watch('LPUSH', KEY_WAKE, '1') end
return 'ok'
