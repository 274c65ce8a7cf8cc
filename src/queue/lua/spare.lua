-- ARGV: level, spare. A further spare of the same content is added to the same job; where another
-- job is under way, it looks at the spare at its end. One that was given up stays so.
--@include prelude
local h = redis.call('HMGET', job, 'state', 'head', 'src', 'gate')
local waits = not h[1] and redis.call('ZSCORE', KEY_DUE, cid)
local given_up = h[1] == 'dead' or h[1] == 'conflict'
local same = h[1] == 'cancelled' and not h[2] and h[3] == ARGV[1]
local under_way = waits or (h[1] and not given_up and not same)
if not under_way then due(now(), h[4]) end
redis.call('HSETNX', job, FIELD_SPARE .. ARGV[2], '0')
if under_way then return 0 end
if not given_up then
  redis.call('HSET', job, 'state', 'cancelled', 'src', ARGV[1], 'target', ARGV[1])
end
wake()
return 1
