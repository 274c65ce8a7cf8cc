--@include wake
-- The claim is over. So is a move into a level of which there may be so many at once; one that
-- waited for that is due again.
if holder then redis.call('DEL', lock) end
redis.call('HDEL', job, FIELD_WORKER)
if known.active then
  redis.call('HDEL', job, FIELD_ACTIVE)
  watch('ZREM', KEY_ACTIVE .. known.active, cid)
  local waits = watch('ZPOPMIN', KEY_PARKED .. GATE_BUSY .. known.active)
  if waits and waits[1] then
    redis.call('ZADD', KEY_DUE, waits[2], waits[1])
    watch('HDEL', KEY_JOB .. waits[1], FIELD_GATE)
    wake()
  end
end
watch('HDEL', KEY_PROGRESS, cid)
