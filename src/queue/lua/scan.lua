-- ARGV: cursor, batch, worker, ms that the turn lasts beyond this batch, and beyond the last one.
-- KEYS[1] is not a cid here. Who has not the turn is at the end; without a place to note the turn
-- in, everybody has it. Of what is longer than a job only its beginning is carried.
--@include watch
local holder = redis.pcall('GET', KEY_SCAN)
if type(holder) == 'string' and holder ~= ARGV[3] then return {'0'} end
local r = redis.call('SCAN', ARGV[1], 'MATCH', '[1-9]*', 'COUNT', ARGV[2])
local out, cids = {r[1]}, {}
if type(holder) ~= 'table' then
  redis.call('SET', KEY_SCAN, ARGV[3], 'PX', r[1] == '0' and ARGV[5] or ARGV[4])
end
for _, key in ipairs(r[2]) do
  if #key <= 20 and not string.find(key, '%D') then cids[#cids + 1] = key end
end
for i, cid in ipairs(cids) do
  local j = watch('GETRANGE', cid, 0, JOB_JSON_BYTES)
  local ours = not j or j == '' or string.find(j, '"status": "done"}', 1, true) or
    string.find(j, ', "error": ', 1, true)
  if not ours and #out < 4 * ARGV[2] and not redis.call('ZSCORE', KEY_DUE, cid) and
      watch('HEXISTS', KEY_JOB .. cid, 'gate') ~= 1 then
    out[#out + 1] = cid out[#out + 1] = j
  end
end
return out
