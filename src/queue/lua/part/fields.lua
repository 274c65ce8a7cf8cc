--@include content
-- These fields of the job, false for each that it has not.
local function fields(...) return unpack(redis.call('HMGET', job, ...)) end
