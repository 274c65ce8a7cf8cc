-- One batch of the reconciling scan: JSONs of other programs that may be jobs. Who has not the turn
-- is at the end; without a place to note the turn in, everybody has it. Of what is longer than a
-- job only its beginning is carried. KEYS[1] is not used.
--@include batch
--@arg worker    whose turn it may be
--@arg turn_ms   that its turn lasts behind this batch,
--@arg rest_ms   and behind the last one
-- Answers FOUND.
--@include watch
local holder = redis.pcall('GET', KEY_SCAN)
if type(holder) == 'string' and holder ~= worker then return {'0'} end
local cids, goes_on = next_batch()
local out = {[FOUND_NEXT] = goes_on}
if type(holder) ~= 'table' then
  redis.call('SET', KEY_SCAN, worker, 'PX', goes_on == '0' and rest_ms or turn_ms)
end
for _, cid in ipairs(cids) do
  local json = watch('GETRANGE', cid, '0', JOB_JSON_BYTES_TEXT)
  local ours = not json or json == '' or string.find(json, '"status": "done"}', 1, true) or
    string.find(json, ', "error": ', 1, true)
  if not ours and #out < 4 * batch and not redis.call('ZSCORE', KEY_DUE, cid) and
      watch('HEXISTS', KEY_JOB .. cid, FIELD_GATE) ~= 1 then
    out[#out + 1] = cid
    out[#out + 1] = json
  end
end
return out
