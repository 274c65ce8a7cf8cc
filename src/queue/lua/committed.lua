-- ARGV: rev
--@include prelude
--@include watched
local h = redis.call('HMGET', job, 'state', 'rev', 'src', 'target', 'bytes', 'ms', 'seen')
if h[1] ~= 'done' or h[2] ~= ARGV[1] or h[7] ~= ARGV[2] then return 0 end
redis.call('HSET', job, 'state', 'committed', 'src', h[4], FIELD_SPARE .. h[3],
  string.format('%.0f', now()))
redis.call('HDEL', job, FIELD_SPARE .. h[4], 'to')
local bytes, ms, le = h[5] or '0', tonumber(h[6] or 0), 'inf'
for _, bound in ipairs({MOVE_MS}) do
  if ms <= bound then le = string.format('%.0f', bound) break end
end
watch('HINCRBY', KEY_STATS, STAT_MOVES, 1)
watch('HINCRBY', KEY_STATS, STAT_BYTES, bytes)
watch('HINCRBY', KEY_STATS, STAT_MS, ms)
watch('HINCRBY', KEY_STATS, STAT_WITHIN .. le, 1)
tally(1, 0)
event('moved', 'from', h[3], 'to', h[4], 'bytes', bytes, 'ms', string.format('%.0f', ms))
return 1
