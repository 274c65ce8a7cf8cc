-- Notes that a worker is alive. KEYS[1] is not used.
--@arg worker
--@arg alive_ms   how long it is believed
-- Answers 0. What cannot be noted is not.
--@include now
--@include watch
--@include whole
local began = string.match(watch('HGET', KEY_WORKERS, worker) or '', '%d+')
watch('HSET', KEY_WORKERS, worker, (began or whole(now)) .. ' ' .. whole(now + alive_ms))
return 0
