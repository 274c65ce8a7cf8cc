-- ARGV: worker, token, rev, bytes copied, of these since the last time, ms it took, seen, was,
-- made, target, name, path. The copy stands, and must be found again even if nobody wants it.
--@include prelude
--@include watched
--@include ours
redis.call('HSET', job, 'was', ARGV[8], 'made', ARGV[9], 'from', h[5], 'to', ARGV[10],
  'name', ARGV[11], 'path', ARGV[12])
--@include still_wanted
if not holder then return 'lost' end
if h[4] ~= 'claimed' then return 'changed' end
redis.call('HSET', job, 'state', 'done', 'bytes', ARGV[4], 'ms', ARGV[6], 'seen', ARGV[7])
redis.call('HSETNX', job, FIELD_SPARE .. h[6], '0')
-- what failed on the way here is over: the commit has its own five attempts
redis.call('HDEL', job, 'attempts', 'waits')
put(h[3], ARGV[1], 'done')
if ARGV[5] ~= '0' then tally(0, ARGV[5]) end
return 'ok'
