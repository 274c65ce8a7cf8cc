-- Takes back what is wanted: the content stays where its row says. KEYS[1] is the cid.
--@arg read       the JSON that was read, or ''
--@arg head       of the JSON as it is then
--@arg level      of the row
--@arg seen       update_time of the row
--@arg filename   of the row
--@arg ttl        how long the JSON stays when nothing is left to do, in ms; '0': for ever
-- Answers SAID_OK, SAID_STOPS: it is being moved, the worker stops, SAID_LATE: the move is done,
-- SAID_NOTHING was wanted, or SAID_CHANGED: it is not as it was read.
--@include fields
--@include has_spare
--@include lock
--@include no_failure
--@include note
--@include put
--@include wake
local stands = watch('GETRANGE', cid, '0', JOB_JSON_BYTES_TEXT) or ''
if stands ~= read then return SAID_CHANGED end
local state, src, worker, gate = fields(FIELD_STATE, FIELD_SRC, FIELD_WORKER, FIELD_GATE)
if state == STATE_DONE then return SAID_LATE end
if state == STATE_COMMITTED or state == STATE_CANCELLED then return SAID_NOTHING end
if not state and not string.find(stands, '"update"', 1, true) and
   not string.find(stands, ', "error": ', 1, true) then return SAID_NOTHING end
if state and src ~= level then return SAID_CHANGED end
local spare = has_spare(job)
local stops = state == STATE_CLAIMED and redis.call('EXISTS', lock) == 1
if not stops and spare then redis.call('ZADD', KEY_DUE, whole(now), cid)
elseif not stops then redis.call('ZREM', KEY_DUE, cid) end
note('cancel')
no_failure(cid)
if stops then
  redis.call('HINCRBY', job, FIELD_REV, 1)
  redis.call('HSET', job, FIELD_TARGET, level, FIELD_HEAD, head)
  put(head, worker or '', 'done')
  return SAID_STOPS
end
put(head, nil, 'done')
if gate then watch('ZREM', KEY_PARKED .. gate, cid) end
if not spare then
  redis.call('DEL', job)
  if tonumber(ttl) > 0 then redis.call('PEXPIRE', cid, ttl) end
  return SAID_OK
end
redis.call('HINCRBY', job, FIELD_REV, 1)
redis.call('HDEL', job, FIELD_ERROR, FIELD_ATTEMPTS, FIELD_CRASHES, FIELD_WAITS, FIELD_WORKER,
  FIELD_GATE)
redis.call('HSET', job, FIELD_STATE, STATE_CANCELLED, FIELD_HEAD, head, FIELD_SRC, level,
  FIELD_TARGET, level, FIELD_SEEN, seen, FIELD_FILENAME, filename)
wake()
return SAID_OK
