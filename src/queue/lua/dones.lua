-- ARGV: cursor, batch. KEYS[1] is not a cid here.
--@include watch
--@include says_done
local r = redis.call('SCAN', ARGV[1], 'MATCH', '[1-9]*', 'COUNT', ARGV[2])
local out = {r[1]}
for _, key in ipairs(r[2]) do
  if #key <= 20 and not string.find(key, '%D') and redis.call('PTTL', key) == -1 then
    local j = watch('GETRANGE', key, 0, JOB_JSON_BYTES)
    local state = watch('HGET', KEY_JOB .. key, 'state')
    local ours = state == 'done' or state == 'committed'
    if j and says_done(j) and not ours then out[#out + 1] = key out[#out + 1] = j end
  end
end
return out
