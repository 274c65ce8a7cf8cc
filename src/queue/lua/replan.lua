-- ARGV: rev
--@include prelude
local h = redis.call('HMGET', job, 'state', 'rev', 'head', 'seen', 'gate')
if h[1] ~= 'done' or h[2] ~= ARGV[1] or h[4] ~= ARGV[2] then
  return 0
end
if redis.call('EXISTS', lock) == 0 then due(now(), h[5]) wake() end
redis.call('HSET', job, 'state', 'queued')
redis.call('HINCRBY', job, 'rev', 1)
put(h[3], nil, 'update')
return 1
