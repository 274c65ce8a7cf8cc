-- Closes a gate. What a person paused stays so. KEYS[1] is not used.
--@arg gate
--@arg for_ms   how long, or '0': until it is resumed
--@arg why      a level is full, a sentence, or ''
-- Answers 1, or 0: a person had closed it.
--@include now
--@include whole
if redis.call('HGET', KEY_PAUSED, gate) == '0' then return 0 end
redis.call('HSET', KEY_PAUSED, gate, for_ms == '0' and '0' or whole(now + for_ms))
if why == '' then redis.pcall('HDEL', KEY_FULL, gate)
else redis.pcall('HSET', KEY_FULL, gate, why) end
return 1
