-- KEYS[1]: cid. The head of the JSON ends where the worker's name begins; text inside of it has its
-- quotes escaped, so the first match is the key.
--@include reading
local cid = KEYS[1]
local job = KEY_JOB .. cid
--@include note_at
local h = redis.call('HMGET', job, 'state', 'head', 'gate')
if redis.call('EXISTS', KEY_LOCK .. cid) == 1 or h[1] == 'done' or h[1] == 'committed' then
  return 'not now'
end
local stands = redis.pcall('GETRANGE', cid, 0, JOB_JSON_BYTES)
local ours = type(stands) == 'string' and #stands <= JOB_JSON_BYTES
if not ours then stands = '' end
local _, ends = string.find(stands, '"worker_id": ', 1, true)
local failed = string.find(stands, ', "error": ', 1, true)
local waits = ends and string.find(stands, '"update"', ends, true)
if not h[1] and not failed and not waits then return 'no job' end
redis.call('ZADD', KEY_DUE, whole(now), cid) -- which may be refused: first
local head = h[2] or failed and ends and string.sub(stands, 1, ends)
if head and ours then redis.call('SET', cid, head .. 'null, "status": "update"}') end
if h[1] then
  redis.call('HDEL', job, 'error', 'attempts', 'crashes', 'waits', 'worker', 'gate')
  if h[1] ~= 'cancelled' then redis.call('HSET', job, 'state', 'queued') end
end
if h[3] then watch('ZREM', KEY_PARKED .. h[3], cid) end
watch('ZREM', KEY_DEAD, cid)
watch('ZREM', KEY_CONFLICT, cid)
if watch('EXISTS', KEY_WAKE) == 0 then watch('LPUSH', KEY_WAKE, '1') end
note(now, 'retry')
return 'ok'
