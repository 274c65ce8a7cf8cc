-- Rewrites a claimed job as its row has it. KEYS[1] is the cid.
--@include ours
--@arg head       of the new JSON
--@arg src
--@arg target
--@arg seen
--@arg filename
--@arg read       the JSON that was read
--@arg rev        of the plan
--@arg stale      a level whose copy is out of date, or ''. With one it is not what was read that
--                counts, but whether the plan is still ours
-- Answers SAID_LOST, SAID_CHANGED, or
--@place BEGUN said   SAID_OK
--@place BEGUN rev    the new one
--@include own
--@include put
if stale == '' then
  if redis.pcall('STRLEN', cid) ~= #read or redis.call('GET', cid) ~= read then
    return SAID_CHANGED
  end
else
  local as_read = redis.pcall('GET', cid) == read
  if known.rev ~= rev or not (as_read or own(known.head)) then return SAID_CHANGED end
  redis.call('HSETNX', job, FIELD_SPARE .. stale, '0')
  redis.call('HSETNX', job, FIELD_SPARE .. known.src, '0')
  redis.call('HSET', job, FIELD_TO, stale)
end
redis.call('HSET', job, FIELD_STATE, STATE_CLAIMED, FIELD_HEAD, head, FIELD_SRC, src,
  FIELD_TARGET, target, FIELD_AT, target, FIELD_SEEN, seen, FIELD_FILENAME, filename)
put(head, worker, 'update')
rev = redis.call('HINCRBY', job, FIELD_REV, 1)
return {[BEGUN_SAID] = SAID_OK, [BEGUN_REV] = tostring(rev)}
