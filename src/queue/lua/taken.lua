-- ARGV: the JSON that says done, old level, new level, seen, ttl. The row says the new level, for
-- another program moved the file there. Its JSON stays as that wrote it. Where a post wrote another
-- one meanwhile, that has seen the row, and only the old place is noted.
--@include prelude
--@include watched
local h = redis.call('HMGET', job, 'state', 'to', 'gate', 'worker')
local stands = redis.pcall('GET', cid) == ARGV[1]
local held = h[4] and redis.call('EXISTS', lock) == 1
local waits = not h[1] and redis.call('ZSCORE', KEY_DUE, cid)
local ended = h[1] == 'dead' or h[1] == 'conflict'
local takes = stands or not (h[1] or waits)
if (takes and not held) or ended then due(now(), h[3]) end
redis.call('HSET', job, FIELD_SPARE .. ARGV[2], string.format('%.0f', now()))
if not takes then return 0 end
redis.call('HDEL', job, FIELD_SPARE .. ARGV[3])
if h[2] == ARGV[3] then redis.call('HDEL', job, 'to') end
-- a worker of ours in the middle of it fences itself, and its release cancels the job
redis.call('HINCRBY', job, 'rev', 1)
redis.call('HSET', job, 'state', held and h[1] == 'claimed' and 'claimed' or 'cancelled',
  'src', ARGV[3], 'target', ARGV[3], 'seen', ARGV[4], 'taken', ARGV[2])
redis.call('HDEL', job, 'head', 'filename', 'error', 'attempts', 'crashes', 'waits')
no_failure()
if stands then redis.call('PEXPIRE', cid, ARGV[5]) end
event('taken', 'from', ARGV[2], 'to', ARGV[3])
wake()
return 1
