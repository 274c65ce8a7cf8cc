-- Extends a claim and tells its progress. KEYS[1] is the cid.
--@include ours
--@arg rev        that the worker works on
--@arg lease_ms   how long it is the worker's from now on
--@arg spare      a level at which a copy may appear, or ''
--@arg done       bytes
--@arg total      bytes
--@arg rate       bytes a second
--@arg untold     bytes of those done, since the last time
--@arg began      when
-- Answers SAID_OK, SAID_LOST, or SAID_CHANGED: then it is extended, but not wanted so any more.
--@include due
--@include now
--@include tally
due(now + lease_ms, known.gate)
redis.call('SET', lock, worker, 'PX', lease_ms)
if known.active then
  watch('ZADD', KEY_ACTIVE .. known.active, 'XX', whole(now + lease_ms), cid)
end
--@include still_wanted
if spare ~= '' then
  redis.call('HSETNX', job, FIELD_SPARE .. spare, '0')
  redis.call('HDEL', job, FIELD_WAS, FIELD_MADE, FIELD_FROM, FIELD_TO, FIELD_NAME, FIELD_PATH,
    FIELD_TAKEN)
end
watch('HSET', KEY_PROGRESS, cid, string.format('%s %s %s %s %.0f %s', done, total, rate, began,
  now + lease_ms, worker))
if untold ~= '0' then tally(0, untold) end
return SAID_OK
