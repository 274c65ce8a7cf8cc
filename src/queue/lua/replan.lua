-- Takes a done back, for the row is not what was moved: it is looked at anew. KEYS[1] is the cid.
--@arg rev    of the job that was looked at,
--@arg seen   and its time of the row
-- Answers 1, or 0: it is another job by now.
--@include due
--@include fields
--@include lock
--@include now
--@include put
--@include wake
local state, its_rev, its_seen, head, gate = fields(FIELD_STATE, FIELD_REV, FIELD_SEEN, FIELD_HEAD,
  FIELD_GATE)
if state ~= STATE_DONE or its_rev ~= rev or its_seen ~= seen then return 0 end
if redis.call('EXISTS', lock) == 0 then due(now, gate) wake() end
redis.call('HSET', job, FIELD_STATE, STATE_QUEUED)
redis.call('HINCRBY', job, FIELD_REV, 1)
put(head, nil, 'update')
return 1
