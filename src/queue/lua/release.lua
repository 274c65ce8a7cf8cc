-- Gives a claim up for a while. KEYS[1] is the cid.
--@include lease
--@arg delay_ms   until it is due again
--@arg counts     as what: COUNTS_
--@arg sentence   why
--@arg no_room    '1': for want of room at the target
-- Answers SAID_OK or SAID_LOST.
--@include content
--@include due
--@include now
--@include own
--@include put
--@include stands_done
--@include trouble
--@include wake
local crashes = tonumber(watch('HGET', job, FIELD_CRASHES) or 0)
local least = counts == COUNTS_HANG and 1 or 0 -- for who claims it next has to clear up
if crashes and crashes > least and redis.call('HGET', job, FIELD_CRASHED) == token then
  -- but we live
  redis.call('HINCRBY', job, FIELD_CRASHES, -1)
  redis.call('HDEL', job, FIELD_CRASHED)
end
--@include ours
--@include ends
due(now + delay_ms, known.gate)
--@include free
if least == 1 then
  local at = redis.call('HGET', job, FIELD_AT)
  if crashes == 0 then redis.call('HSET', job, FIELD_CRASHES, 1) end
  if at then redis.call('HSETNX', job, FIELD_SPARE .. at, '0') end
end
if counts ~= COUNTS_NOTHING then
  redis.call('HINCRBY', job, counts == COUNTS_ATTEMPT and FIELD_ATTEMPTS or FIELD_WAITS, 1)
end
redis.call('HSET', job, FIELD_ERROR, sentence)
if known.state == STATE_CLAIMED then
  local state = delay_ms == '0' and STATE_QUEUED or STATE_BACKOFF
  if known.src == known.target then state = STATE_CANCELLED end
  redis.call('HSET', job, FIELD_STATE, state)
  if own(known.head) and (state == STATE_CANCELLED or not stands_done()) then
    put(known.head, nil, state == STATE_CANCELLED and 'done' or 'update')
  end
end
if no_room == '1' then
  redis.call('HSET', job, FIELD_SHORT, known.target)
  watch('HSET', KEY_SHORT, known.target, sentence)
  watch('ZADD', KEY_SHORT_JOBS .. known.target, whole(now + delay_ms), cid)
end
if counts == COUNTS_ATTEMPT then
  trouble('retried', sentence)
  watch('HINCRBY', KEY_STATS, STAT_RETRIED, 1)
elseif delay_ms ~= '0' then
  note('waits', 'error', sentence)
end
if delay_ms == '0' then wake() end
return SAID_OK
