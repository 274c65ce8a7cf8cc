-- Opens a gate. KEYS[1] is not used.
--@arg gate
--@arg most   so many of those that wait behind it come free at once
-- Answers how many came free.
--@include watch
--@include wake
redis.call('ZCARD', KEY_DUE) -- what is taken out must go in there
redis.call('HLEN', KEY_PAUSED)
local freed = watch('ZPOPMIN', KEY_PARKED .. gate, most) or {}
-- what is left comes free even if nobody asks again: the gate has opened
if #freed < 2 * most then redis.call('HDEL', KEY_PAUSED, gate)
else redis.call('HSET', KEY_PAUSED, gate, '1') end
watch('HDEL', KEY_FULL, gate)
for i = 1, #freed, 2 do
  redis.call('ZADD', KEY_DUE, freed[i + 1], freed[i])
  watch('HDEL', KEY_JOB .. freed[i], FIELD_GATE)
end
if freed[1] then wake() end
return #freed / 2
