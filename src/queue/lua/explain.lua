-- KEYS[1]: cid. Its events are answered as those of a stream are.
--@include reading
local cid = KEYS[1]
local job, lock = KEY_JOB .. cid, KEY_LOCK .. cid
local events, amiss = {}, {}
for i, line in ipairs(watch('LRANGE', KEY_LOG .. cid, 0, LOG_KEPT - 1) or {}) do
  local at, rest = string.match(line, '^(%d*)%z?(.*)$')
  local e = {'cid', cid, 'what'}
  for field in string.gmatch(rest .. '\0', '(%Z*)%z') do e[#e + 1] = field end
  events[i] = {at .. '-0', e}
end
local function hold(key, type, want)
  local is = redis.call('TYPE', key).ok
  if is ~= 'none' and is ~= type then amiss[#amiss + 1] = {'watch', key, is, want} end
end
hold(cid, 'string', 'job')
hold(job, 'hash', 'hash')
hold(lock, 'string', 'string')
local json = watch('GETRANGE', cid, 0, JOB_JSON_BYTES) or ''
if #json > JOB_JSON_BYTES or string.find(json, '%z') then
  json = ''
  amiss[#amiss + 1] = {'watch', cid, 'string', 'job'}
end
local gate = watch('HGET', job, 'gate')
local full = gate and watch('HGET', KEY_FULL, gate)
local alive = 0
for _, w in ipairs(watch('HVALS', KEY_WORKERS) or {}) do
  if tonumber(string.match(w, '^%d+ (%d+)') or 0) >= now then alive = alive + 1 end
end
return {whole(now), json ~= '' and json,
  watch('HGETALL', job) or {}, watch('GETRANGE', lock, '0', '256') or '',
  redis.call('PTTL', lock), watch('ZSCORE', KEY_DUE, cid),
  gate and watch('HGET', KEY_PAUSED, gate) or false,
  watch('HGET', KEY_PROGRESS, cid), watch('HGETALL', KEY_USE) or {}, events,
  alive, amiss, full or '', troubles()}
