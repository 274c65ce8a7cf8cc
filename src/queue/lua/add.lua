-- Puts a content whose JSON another program wrote into the queue, or notes that it is no job. A
-- scan read it a while ago: what was done since, or posted, is no new job. KEYS[1] is the cid.
--@arg bad    '' to add, else it is no job, and is to be told of once
--@arg read   what was read of its JSON, or ''
-- Answers 1: it is new, or 0.
--@include content
--@include no_failure
--@include now
--@include unpark
--@include wake
--@include watch
--@include whole
if bad ~= '' then
  local seen = KEY_BAD .. cid
  local sha = redis.sha1hex(watch('GETRANGE', cid, '0', JOB_JSON_BYTES_TEXT) or '')
  local told = redis.pcall('GET', seen)
  if type(told) == 'table' or told == sha then return 0 end
  redis.call('SET', seen, sha, 'PX', WEEK_MS)
  return 1
end
if read ~= '' and watch('GETRANGE', cid, '0', JOB_JSON_BYTES_TEXT) ~= read then return 0 end
if redis.call('ZADD', KEY_DUE, 'NX', whole(now), cid) == 0 then return 0 end
unpark(watch('HGET', job, FIELD_GATE))
no_failure(cid)
watch('HDEL', job, FIELD_STATE, FIELD_HEAD, FIELD_WORKER) -- but known spares stay known
wake()
return 1
