-- ARGV: worker, token, head, src, target, seen, filename, the JSON that was read, rev, and '' or a
-- level whose copy is out of date: then it is not what was read that counts, but whether the plan
-- is still ours
--@include prelude
--@include ours
local stale = ARGV[10]
if stale == '' then
  if redis.pcall('STRLEN', cid) ~= #ARGV[8] or
     redis.call('GET', cid) ~= ARGV[8] then return 'changed' end
else
  local read = redis.pcall('GET', cid) == ARGV[8]
  if h[2] ~= ARGV[9] or not (read or own(h[3])) then return 'changed' end
  redis.call('HSETNX', job, FIELD_SPARE .. stale, '0')
  redis.call('HSETNX', job, FIELD_SPARE .. h[5], '0')
  redis.call('HSET', job, 'to', stale)
end
redis.call('HSET', job, 'state', 'claimed', 'head', ARGV[3], 'src', ARGV[4], 'target', ARGV[5],
  'at', ARGV[5], 'seen', ARGV[6], 'filename', ARGV[7])
put(ARGV[3], ARGV[1], 'update')
return {'ok', tostring(redis.call('HINCRBY', job, 'rev', 1))}
