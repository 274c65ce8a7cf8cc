-- Whatever people look at is shown as far as it can be read: what is not ours is as if it were not
-- there, and is named beside it (job/keys).
--@include watch
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function whole(n) return string.format('%.0f', n) end
--@include troubles
