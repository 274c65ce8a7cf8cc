-- ARGV: worker, token, delay, counts, error, whether it is for want of room
--@include prelude
--@include watched
local crashes = tonumber(watch('HGET', job, 'crashes') or 0)
local least = ARGV[4] == '2' and 1 or 0 -- for who claims it next has to clear up
if crashes and crashes > least and redis.call('HGET', job, 'dead') == ARGV[2] then -- but we live
  redis.call('HINCRBY', job, 'crashes', -1)
  redis.call('HDEL', job, 'dead')
end
--@include ours
--@include ends
due(now() + ARGV[3], h[9])
--@include free
no_longer_active(h[8])
watch('HDEL', KEY_PROGRESS, cid)
if least == 1 then
  local at = redis.call('HGET', job, 'at')
  if crashes == 0 then redis.call('HSET', job, 'crashes', 1) end
  if at then redis.call('HSETNX', job, FIELD_SPARE .. at, '0') end
end
if ARGV[4] ~= '' then
  redis.call('HINCRBY', job, ARGV[4] == '1' and 'attempts' or 'waits', 1)
end
redis.call('HSET', job, 'error', ARGV[5])
if h[4] == 'claimed' then
  local next = ARGV[3] == '0' and 'queued' or 'backoff'
  if h[5] == h[6] then next = 'cancelled' end
  redis.call('HSET', job, 'state', next)
  if own(h[3]) and (next == 'cancelled' or not stands_done()) then
    put(h[3], nil, next == 'cancelled' and 'done' or 'update')
  end
end
if ARGV[6] == '1' then
  redis.call('HSET', job, 'short', h[6])
  watch('HSET', KEY_SHORT, h[6], ARGV[5])
  watch('ZADD', KEY_SHORT_JOBS .. h[6], string.format('%.0f', now() + ARGV[3]), cid)
end
if ARGV[4] == '1' then
  trouble('retried', ARGV[5])
  watch('HINCRBY', KEY_STATS, STAT_RETRIED, 1)
elseif ARGV[3] ~= '0' then
  event('waits', 'error', ARGV[5])
end
if ARGV[3] == '0' then wake() end
return 'ok'
