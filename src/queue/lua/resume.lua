-- ARGV: gate, most. How many came free.
--@include watch
redis.call('ZCARD', KEY_DUE) -- what is taken out must go in there
redis.call('HLEN', KEY_PAUSED)
local freed = watch('ZPOPMIN', KEY_PARKED .. ARGV[1], ARGV[2]) or {}
-- what is left comes free even if nobody asks again: the gate has opened
if #freed < 2 * ARGV[2] then redis.call('HDEL', KEY_PAUSED, ARGV[1])
else redis.call('HSET', KEY_PAUSED, ARGV[1], '1') end
watch('HDEL', KEY_FULL, ARGV[1])
for k = 1, #freed, 2 do
  redis.call('ZADD', KEY_DUE, freed[k + 1], freed[k])
  watch('HDEL', KEY_JOB .. freed[k], 'gate')
end
if freed[1] and watch('EXISTS', KEY_WAKE) == 0 then
  watch('LPUSH', KEY_WAKE, '1')
end
return #freed / 2
