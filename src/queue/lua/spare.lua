-- Hands a superfluous copy to the workers, who judge and retire it. A further one of the same
-- content is added to the same job; where another job is under way, it looks at the spare at its
-- end. One that was given up stays so. KEYS[1] is the cid.
--@arg level   where the content is
--@arg spare   the level of the copy
-- Answers 1, or 0: another job is under way.
--@include due
--@include fields
--@include now
--@include wake
local state, head, src, gate = fields(FIELD_STATE, FIELD_HEAD, FIELD_SRC, FIELD_GATE)
local waits = not state and redis.call('ZSCORE', KEY_DUE, cid)
local given_up = state == STATE_DEAD or state == STATE_CONFLICT
local same = state == STATE_CANCELLED and not head and src == level
local under_way = waits or (state and not given_up and not same)
if not under_way then due(now, gate) end
redis.call('HSETNX', job, FIELD_SPARE .. spare, '0')
if under_way then return 0 end
if not given_up then
  redis.call('HSET', job, FIELD_STATE, STATE_CANCELLED, FIELD_SRC, level, FIELD_TARGET, level)
end
wake()
return 1
