-- Ends a job as dead or conflict. KEYS[1] is the cid.
--@include ours
--@arg status         STATE_DEAD or STATE_CONFLICT, of the job and its JSON alike
--@arg sentence_json  why,
--@arg sentence       and the same as text
--@arg drop           a level where we announced a copy but made none, or ''
--@arg rev            that the worker worked on
-- Answers SAID_OK, SAID_LOST, SAID_CHANGED, or SAID_TAKEN: another program says to have moved it.
--@include due
--@include has_spare
--@include now
--@include own
--@include put
--@include stands_done
--@include trouble
--@include wake
-- a post that came meanwhile wants something else, or the content where it is: that is not what
-- failed
if known.state == STATE_CLAIMED and (known.rev ~= rev or known.src == known.target) then
  return SAID_CHANGED
end
-- nor did what another program says to have done
if known.state ~= STATE_DONE and stands_done() then return SAID_TAKEN end
--@include ends
-- a copy that will not be committed is looked at, and taken away
if known.state == STATE_DONE then due(now, known.gate)
else redis.call('ZREM', KEY_DUE, cid) end
--@include free
redis.call('HDEL', job, FIELD_SPARE .. drop)
redis.call('HSET', job, FIELD_STATE, status, FIELD_ERROR, sentence)
if own(known.head) then put(known.head, nil, status, sentence_json) end
if not has_spare(job) then redis.call('DEL', job) end
watch('ZADD', status == STATE_DEAD and KEY_DEAD or KEY_CONFLICT, whole(now), cid)
watch('HINCRBY', KEY_STATS, status == STATE_DEAD and STAT_DEAD or STAT_CONFLICT, 1)
trouble(status, sentence)
if known.state == STATE_DONE then wake() end
return SAID_OK
