-- ARGV: worker, token, status, error as JSON, error, spare to drop, rev
--@include prelude
--@include watched
--@include ours
-- a post that came meanwhile wants something else, or the content where it is: that is not what
-- failed
if h[4] == 'claimed' and (h[2] ~= ARGV[7] or h[5] == h[6]) then return 'changed' end
-- nor did what another program says to have done
if h[4] ~= 'done' and stands_done() then return 'taken' end
--@include ends
-- a copy that will not be committed is looked at, and taken away
if h[4] == 'done' then due(now(), h[9]) else redis.call('ZREM', KEY_DUE, cid) end
--@include free
no_longer_active(h[8])
watch('HDEL', KEY_PROGRESS, cid)
redis.call('HDEL', job, FIELD_SPARE .. ARGV[6])
redis.call('HSET', job, 'state', ARGV[3], 'error', ARGV[5])
if own(h[3]) then put(h[3], nil, ARGV[3], ARGV[4]) end
if not has_spare() then redis.call('DEL', job) end
watch('ZADD', ARGV[3] == 'dead' and KEY_DEAD or KEY_CONFLICT, string.format('%.0f', now()), cid)
watch('HINCRBY', KEY_STATS, ARGV[3], 1)
trouble(ARGV[3], ARGV[5])
if h[4] == 'done' then wake() end
return 'ok'
