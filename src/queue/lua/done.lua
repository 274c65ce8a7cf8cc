-- The file is at its target. The copy stands, and must be found again even if nobody wants it.
-- KEYS[1] is the cid.
--@include ours
--@arg rev        that the worker worked on
--@arg bytes      that were copied
--@arg untold     of these, since the last time
--@arg took_ms    from the claim on
--@arg seen       time of the row
--@arg was        the source as it was copied
--@arg made       the copy as it was published
--@arg to         its level
--@arg name       its name
--@arg path       of its level
-- Answers SAID_OK, SAID_LOST or SAID_CHANGED.
--@include put
--@include tally
redis.call('HSET', job, FIELD_WAS, was, FIELD_MADE, made, FIELD_FROM, known.src, FIELD_TO, to,
  FIELD_NAME, name, FIELD_PATH, path)
--@include still_wanted
if not holder then return SAID_LOST end
if known.state ~= STATE_CLAIMED then return SAID_CHANGED end
redis.call('HSET', job, FIELD_STATE, STATE_DONE, FIELD_BYTES, bytes, FIELD_MS, took_ms,
  FIELD_SEEN, seen)
redis.call('HSETNX', job, FIELD_SPARE .. known.target, '0')
-- what failed on the way here is over: the commit has its own five attempts
redis.call('HDEL', job, FIELD_ATTEMPTS, FIELD_WAITS)
put(known.head, worker, 'done')
if untold ~= '0' then tally(0, untold) end
return SAID_OK
