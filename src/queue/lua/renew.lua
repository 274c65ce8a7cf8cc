-- ARGV: worker, token, rev, lease, spare or '', bytes done, bytes in all, bytes a second, bytes
-- since the last time, when it began
--@include prelude
--@include watched
--@include ours
due(now() + ARGV[4], h[9])
redis.call('SET', lock, ARGV[1], 'PX', ARGV[4])
if h[8] then
  watch('ZADD', KEY_ACTIVE .. h[8], 'XX', string.format('%.0f', now() + ARGV[4]), cid)
end
--@include still_wanted
if ARGV[5] ~= '' then
  redis.call('HSETNX', job, FIELD_SPARE .. ARGV[5], '0')
  redis.call('HDEL', job, 'was', 'made', 'from', 'to', 'name', 'path', 'taken')
end
watch('HSET', KEY_PROGRESS, cid, string.format('%s %s %s %s %.0f %s', ARGV[6],
  ARGV[7], ARGV[8], ARGV[10], now() + ARGV[4], ARGV[1]))
if ARGV[9] ~= '0' then tally(0, ARGV[9]) end
return 'ok'
