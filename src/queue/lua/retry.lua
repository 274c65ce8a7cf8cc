-- Starts a dead, conflicting or waiting job anew. KEYS[1] is the cid.
-- Answers SAID_OK, SAID_NOT_NOW: it is being moved, or its move is done, or SAID_NO_JOB.
--@include fields
--@include lock
--@include no_failure
--@include note
--@include wake
local state, known_head, gate = fields(FIELD_STATE, FIELD_HEAD, FIELD_GATE)
if redis.call('EXISTS', lock) == 1 or state == STATE_DONE or state == STATE_COMMITTED then
  return SAID_NOT_NOW
end
local stands = redis.pcall('GETRANGE', cid, '0', JOB_JSON_BYTES_TEXT)
local ours = type(stands) == 'string' and #stands <= JOB_JSON_BYTES
if not ours then stands = '' end
-- The head of the JSON ends where the worker's name begins; text inside of it has its quotes
-- escaped, so the first match is the key.
local _, ends = string.find(stands, '"worker_id": ', 1, true)
local failed = string.find(stands, ', "error": ', 1, true)
local waits = ends and string.find(stands, '"update"', ends, true)
if not state and not failed and not waits then return SAID_NO_JOB end
redis.call('ZADD', KEY_DUE, whole(now), cid) -- which may be refused: first
local head = known_head or failed and ends and string.sub(stands, 1, ends)
if head and ours then redis.call('SET', cid, head .. 'null, "status": "update"}') end
if state then
  redis.call('HDEL', job, FIELD_ERROR, FIELD_ATTEMPTS, FIELD_CRASHES, FIELD_WAITS, FIELD_WORKER,
    FIELD_GATE)
  if state ~= STATE_CANCELLED then redis.call('HSET', job, FIELD_STATE, STATE_QUEUED) end
end
if gate then watch('ZREM', KEY_PARKED .. gate, cid) end
no_failure(cid)
wake()
note('retry')
return SAID_OK
