-- Notes that the row says the target: done becomes committed. KEYS[1] is the cid.
--@arg rev    of the job that was looked at,
--@arg seen   and its time of the row: rev alone begins anew with each job
-- Answers 1, or 0: it is another job by now, or this was noted before.
--@include fields
--@include note
--@include tally
local state, its_rev, its_seen, src, target, bytes, ms = fields(FIELD_STATE, FIELD_REV, FIELD_SEEN,
  FIELD_SRC, FIELD_TARGET, FIELD_BYTES, FIELD_MS)
if state ~= STATE_DONE or its_rev ~= rev or its_seen ~= seen then return 0 end
redis.call('HSET', job, FIELD_STATE, STATE_COMMITTED, FIELD_SRC, target,
  FIELD_SPARE .. src, whole(now))
redis.call('HDEL', job, FIELD_SPARE .. target, FIELD_TO)
bytes, ms = bytes or '0', tonumber(ms or 0)
local within = 'inf'
for _, bound in ipairs({MOVE_MS}) do
  if ms <= bound then within = whole(bound) break end
end
watch('HINCRBY', KEY_STATS, STAT_MOVES, 1)
watch('HINCRBY', KEY_STATS, STAT_BYTES, bytes)
watch('HINCRBY', KEY_STATS, STAT_MS, ms)
watch('HINCRBY', KEY_STATS, STAT_WITHIN .. within, 1)
tally(1, 0)
note('moved', 'from', src, 'to', target, 'bytes', bytes, 'ms', whole(ms))
return 1
