-- Ends a claim whose work is done: finishes the job, or hands it on. KEYS[1] is the cid.
--@include ours
--@arg ttl        how long the JSON stays when the job is finished, in ms
--@rest retired   levels that hold no spare copy any more
-- Answers SAID_OK or SAID_LOST.
--@include due
--@include now
--@include own
--@include put
--@include spare_of
--@include wake
--@include ends
local gone, left = {}, false
for i, level in ipairs(retired) do gone[level], retired[i] = true, FIELD_SPARE .. level end
for _, field in ipairs(redis.call('HKEYS', job)) do
  local level = spare_of(field)
  left = left or (level and not gone[level])
end
local state = known.state
if state == STATE_CLAIMED and known.src == known.target then state = STATE_CANCELLED end
local over = state == STATE_COMMITTED or state == STATE_CANCELLED
-- its spares were looked at, no more; or no job after all, and what stands there is let alone
local ended = not state or state == STATE_DEAD or state == STATE_CONFLICT
local goes = ended or (over and not left)
if goes then redis.call('ZREM', KEY_DUE, cid)
-- a commit that was refused: not at once
else due(now + (state == STATE_DONE and 1000 or 0), known.gate) end
--@include free
if retired[1] then redis.call('HDEL', job, unpack(retired)) end
if state == STATE_CANCELLED and own(known.head) then put(known.head, nil, 'done') end
if goes then
  if over then unpark(known.gate) end
  if not left then redis.call('DEL', job) end
  -- without a head there was no more to it than a spare
  if over and known.head then redis.call('PEXPIRE', cid, ttl) end
  return SAID_OK
end
if state == STATE_CLAIMED then redis.call('HSET', job, FIELD_STATE, STATE_QUEUED) end
wake()
return SAID_OK
