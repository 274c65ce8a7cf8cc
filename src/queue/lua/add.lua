-- ARGV: '' to add, else it is no job, and is to be told of once; what was read of its JSON, or ''.
-- A scan read it a while ago: what was done since, or posted, is no new job.
--@include prelude
--@include watched
if ARGV[1] ~= '' then
  local seen = KEY_BAD .. cid
  local sha = redis.sha1hex(watch('GETRANGE', cid, 0, JOB_JSON_BYTES) or '')
  local told = redis.pcall('GET', seen)
  if type(told) == 'table' or told == sha then return 0 end
  redis.call('SET', seen, sha, 'PX', WEEK_MS)
  return 1
end
if ARGV[2] ~= '' and watch('GETRANGE', cid, 0, JOB_JSON_BYTES) ~= ARGV[2] then return 0 end
if redis.call('ZADD', KEY_DUE, 'NX', string.format('%.0f', now()), cid) == 0 then return 0 end
unpark(watch('HGET', job, 'gate'))
no_failure()
watch('HDEL', job, 'state', 'head', 'worker') -- but known spares stay known
wake()
return 1
