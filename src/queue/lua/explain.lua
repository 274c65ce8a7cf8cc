-- What people see of one content, as far as it can be read. KEYS[1] is its cid.
--@place EXPLAIN now
--@place EXPLAIN json       as it stands; nil: there is none, or it is no job's
--@place EXPLAIN job        field, value by turns
--@place EXPLAIN lock       who holds it, or ''
--@place EXPLAIN lock_ms    how long the lock stands yet; negative: it does not, or for ever
--@place EXPLAIN due        when, or nil
--@place EXPLAIN until      when its gate opens, as in KEY_PAUSED, or nil
--@place EXPLAIN progress   as in KEY_PROGRESS, or nil
--@place EXPLAIN use        level, "used free" by turns
--@place EXPLAIN events     its last ones, as XREVRANGE would answer them
--@place EXPLAIN alive      workers
--@place EXPLAIN amiss      AMISS of each
--@place EXPLAIN full       why the level that is its gate is, or ''
--@place EXPLAIN trouble    TROUBLE of each
--@include amiss
--@include lock
--@include now
--@include troubles
--@include watch
--@include whole
local events, bad = {}, {}
for i, line in ipairs(watch('LRANGE', KEY_LOG .. cid, 0, LOG_KEPT - 1) or {}) do
  local at, rest = string.match(line, '^(%d*)%z?(.*)$')
  local pairs_of_it = {'cid', cid, 'what'}
  for word in string.gmatch(rest .. '\0', '(%Z*)%z') do pairs_of_it[#pairs_of_it + 1] = word end
  events[i] = {at .. '-0', pairs_of_it}
end
local function hold(key, type, want)
  local is = redis.call('TYPE', key).ok
  if is ~= 'none' and is ~= type then bad[#bad + 1] = amiss(GRADE_WATCH, key, is, want) end
end
hold(cid, 'string', 'job')
hold(job, 'hash', 'hash')
hold(lock, 'string', 'string')
local json = watch('GETRANGE', cid, '0', JOB_JSON_BYTES_TEXT) or ''
if #json > JOB_JSON_BYTES or string.find(json, '%z') then
  json = ''
  bad[#bad + 1] = amiss(GRADE_WATCH, cid, 'string', 'job')
end
local gate = watch('HGET', job, FIELD_GATE)
local alive = 0
for _, spans in ipairs(watch('HVALS', KEY_WORKERS) or {}) do
  if tonumber(string.match(spans, '^%d+ (%d+)') or 0) >= now then alive = alive + 1 end
end
return {
  [EXPLAIN_NOW] = whole(now), [EXPLAIN_JSON] = json ~= '' and json,
  [EXPLAIN_JOB] = watch('HGETALL', job) or {},
  [EXPLAIN_LOCK] = watch('GETRANGE', lock, '0', '256') or '',
  [EXPLAIN_LOCK_MS] = redis.call('PTTL', lock), [EXPLAIN_DUE] = watch('ZSCORE', KEY_DUE, cid),
  [EXPLAIN_UNTIL] = gate and watch('HGET', KEY_PAUSED, gate) or false,
  [EXPLAIN_PROGRESS] = watch('HGET', KEY_PROGRESS, cid),
  [EXPLAIN_USE] = watch('HGETALL', KEY_USE) or {}, [EXPLAIN_EVENTS] = events,
  [EXPLAIN_ALIVE] = alive, [EXPLAIN_AMISS] = bad,
  [EXPLAIN_FULL] = gate and watch('HGET', KEY_FULL, gate) or '',
  [EXPLAIN_TROUBLE] = troubles(),
}
