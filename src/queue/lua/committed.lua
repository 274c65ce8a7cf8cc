-- ARGV: rev
--@include prelude
--@include watched
local h = redis.call('HMGET', job, 'state', 'rev', 'src', 'target', 'bytes', 'ms', 'seen')
if h[1] ~= 'done' or h[2] ~= ARGV[1] or h[7] ~= ARGV[2] then return 0 end
redis.call('HSET', job, 'state', 'committed', 'src', h[4], 'spare:' .. h[3],
  string.format('%.0f', now()))
redis.call('HDEL', job, 'spare:' .. h[4], 'to')
local bytes, ms, le = h[5] or '0', tonumber(h[6] or 0), 'inf'
for _, bound in ipairs({10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000, 300000, 1000000,
    3000000}) do
  if ms <= bound then le = string.format('%.0f', bound) break end
end
watch('HINCRBY', 'tierd:stats', 'moves', 1)
watch('HINCRBY', 'tierd:stats', 'bytes', bytes)
watch('HINCRBY', 'tierd:stats', 'ms', ms)
watch('HINCRBY', 'tierd:stats', 'le:' .. le, 1)
tally(1, 0)
event('moved', 'from', h[3], 'to', h[4], 'bytes', bytes, 'ms', string.format('%.0f', ms))
return 1
