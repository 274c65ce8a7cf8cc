-- ARGV: gate, most. How many came free.
--@include watch
redis.call('ZCARD', 'tierd:due') -- what is taken out must go in there
redis.call('HLEN', 'tierd:paused')
local freed = watch('ZPOPMIN', 'tierd:parked:' .. ARGV[1], ARGV[2]) or {}
-- what is left comes free even if nobody asks again: the gate has opened
if #freed < 2 * ARGV[2] then redis.call('HDEL', 'tierd:paused', ARGV[1])
else redis.call('HSET', 'tierd:paused', ARGV[1], '1') end
watch('HDEL', 'tierd:full', ARGV[1])
for k = 1, #freed, 2 do
  redis.call('ZADD', 'tierd:due', freed[k + 1], freed[k])
  watch('HDEL', 'tierd:job:' .. freed[k], 'gate')
end
if freed[1] and watch('EXISTS', 'tierd:wake') == 0 then
  watch('LPUSH', 'tierd:wake', '1')
end
return #freed / 2
