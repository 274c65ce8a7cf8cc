--@include content
--@include watch
local function unpark(gate)
  if gate then
    watch('ZREM', KEY_PARKED .. gate, cid)
    redis.call('HDEL', job, FIELD_GATE)
  end
end
