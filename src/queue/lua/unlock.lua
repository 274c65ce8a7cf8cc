-- Gives back the lock of a content without a job. KEYS[1] is its cid.
--@arg holder   who has it
-- Answers 1, or 0: somebody else has it.
local lock = KEY_LOCK .. KEYS[1]
if redis.pcall('GET', lock) == holder then return redis.call('DEL', lock) end
return 0
