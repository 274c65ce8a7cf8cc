-- One batch of a scan for JSONs that other programs set to done, and that nobody counted. KEYS[1]
-- is not used.
--@include batch
-- Answers FOUND.
--@include says_done
--@include watch
local cids, goes_on = next_batch()
local out = {[FOUND_NEXT] = goes_on}
for _, cid in ipairs(cids) do
  if redis.call('PTTL', cid) == -1 then
    local json = watch('GETRANGE', cid, '0', JOB_JSON_BYTES_TEXT)
    local state = watch('HGET', KEY_JOB .. cid, FIELD_STATE)
    local ours = state == STATE_DONE or state == STATE_COMMITTED
    if json and says_done(json) and not ours then
      out[#out + 1] = cid
      out[#out + 1] = json
    end
  end
end
return out
