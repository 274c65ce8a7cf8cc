-- Notes that the row says another level, for another program moved the file there. Its JSON stays
-- as that wrote it. Where a post wrote another one meanwhile, that has seen the row, and only the
-- old place is noted. KEYS[1] is the cid.
--@arg json   that says done, as it was read
--@arg from   the level where it was
--@arg to     the level that the row says
--@arg seen   update_time of the row before
--@arg ttl    how long the JSON stays, in ms
-- Answers 1, or 0: only the old place was noted.
--@include due
--@include fields
--@include lock
--@include no_failure
--@include note
--@include wake
local state, copy, gate, worker = fields(FIELD_STATE, FIELD_TO, FIELD_GATE, FIELD_WORKER)
local stands = redis.pcall('GET', cid) == json
local held = worker and redis.call('EXISTS', lock) == 1
local waits = not state and redis.call('ZSCORE', KEY_DUE, cid)
local ended = state == STATE_DEAD or state == STATE_CONFLICT
local takes = stands or not (state or waits)
if (takes and not held) or ended then due(now, gate) end
redis.call('HSET', job, FIELD_SPARE .. from, whole(now))
if not takes then return 0 end
redis.call('HDEL', job, FIELD_SPARE .. to)
if copy == to then redis.call('HDEL', job, FIELD_TO) end
-- a worker of ours in the middle of it fences itself, and its release cancels the job
redis.call('HINCRBY', job, FIELD_REV, 1)
redis.call('HSET', job, FIELD_STATE,
  held and state == STATE_CLAIMED and STATE_CLAIMED or STATE_CANCELLED,
  FIELD_SRC, to, FIELD_TARGET, to, FIELD_SEEN, seen, FIELD_TAKEN, from)
redis.call('HDEL', job, FIELD_HEAD, FIELD_FILENAME, FIELD_ERROR, FIELD_ATTEMPTS, FIELD_CRASHES,
  FIELD_WAITS)
no_failure(cid)
if stands then redis.call('PEXPIRE', cid, ttl) end
note('taken', 'from', from, 'to', to)
wake()
return 1
