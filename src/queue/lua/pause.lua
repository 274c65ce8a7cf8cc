-- ARGV: gate, how long in ms or '0' until it is resumed, why a level is full or ''. What a person
-- paused stays so.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if redis.call('HGET', KEY_PAUSED, ARGV[1]) == '0' then return 0 end
local till = ARGV[2] == '0' and '0' or string.format('%.0f', now + ARGV[2])
redis.call('HSET', KEY_PAUSED, ARGV[1], till)
if ARGV[3] == '' then redis.pcall('HDEL', KEY_FULL, ARGV[1])
else redis.pcall('HSET', KEY_FULL, ARGV[1], ARGV[3]) end
return 1
