-- ARGV: worker, token, ttl, retired levels...
--@include prelude
--@include ours
--@include ends
local retired, left = {}, false
for i = 4, #ARGV do retired[i - 3] = FIELD_SPARE .. ARGV[i] end
for _, f in ipairs(redis.call('HKEYS', job)) do
  if string.sub(f, 1, #FIELD_SPARE) == FIELD_SPARE then
    local gone = false
    for _, r in ipairs(retired) do gone = gone or r == f end
    left = left or not gone
  end
end
if h[4] == 'claimed' and h[5] == h[6] then h[4] = 'cancelled' end
local over = h[4] == 'committed' or h[4] == 'cancelled'
-- its spares were looked at, no more; or no job after all, and what stands there is let alone
local ended = not h[4] or h[4] == 'dead' or h[4] == 'conflict'
local goes = ended or (over and not left)
if goes then redis.call('ZREM', KEY_DUE, cid)
-- a commit that was refused: not at once
else due(now() + (h[4] == 'done' and 1000 or 0), h[9]) end
--@include free
if retired[1] then redis.call('HDEL', job, unpack(retired)) end
no_longer_active(h[8])
watch('HDEL', KEY_PROGRESS, cid)
if h[4] == 'cancelled' and own(h[3]) then put(h[3], nil, 'done') end
if goes then
  if over then unpark(h[9]) end
  if not left then redis.call('DEL', job) end
  -- without a head there was no more to it than a spare
  if over and h[3] then redis.call('PEXPIRE', cid, ARGV[3]) end
  return 'ok'
end
if h[4] == 'claimed' then redis.call('HSET', job, 'state', 'queued') end
wake()
return 'ok'
