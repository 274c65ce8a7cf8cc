--@include unpark
--@include whole
-- What is due is not parked: `gate` is the one that it was behind, or false.
local function due(at, gate)
  redis.call('ZADD', KEY_DUE, whole(at), cid)
  unpark(gate)
end
