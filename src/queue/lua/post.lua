-- KEYS: the cids of several posts. ARGV: ttl, then POST_ARGS for each post: the JSON, level as
-- JSON, facts (target, level, seen and filename, with a NUL between), ack. The answer: one element
-- for each post, 1 when the JSON now stands as it was sent, else how it ended and a text; when all
-- of them are 1, a single 1 (hiredis allocates for each element). Each post is what it would be
-- alone, and one that fails leaves the others alone: what may be refused (a foreign type, memory)
-- is so before its first write. A slice of them shares what can be asked and written for many at
-- once (64: unpack's stack has room for thousands); a cid that comes again in it sees all that was
-- written before. Of a job that no worker has claimed yet its JSON and its place in tierd:due are
-- all there is: the claim makes the hash. So one EXISTS for the slice tells that nothing more is
-- known, as is nearly always so of contents that are counted.
local call, find, at, values, waiting, over = redis.call, string.find, false, {}, {}, {}
local added = 0
--@include watch
--@include foreign
--@include says_done
call('ZCARD', KEY_DUE)
local function now()
  if not at then
    local t = call('TIME')
    at = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
  end
  return at
end
local function has_spare(job)
  for _, f in ipairs(call('HKEYS', job)) do
    if string.sub(f, 1, #FIELD_SPARE) == FIELD_SPARE then return true end
  end
  return false
end
-- what a new start takes off: its failure, the gate that it was parked behind
local function start_anew(cid, job, stands, gate)
  if stands and find(stands, '"error": ', 1, true) then
    watch('ZREM', KEY_DEAD, cid)
    watch('ZREM', KEY_CONFLICT, cid)
  end
  if gate then
    watch('ZREM', KEY_PARKED .. gate, cid)
    call('HDEL', job, 'gate')
  end
end
-- written for all of a slice at once, behind the writes of each that may be refused
local function flush()
  if waiting[1] then -- one that waits already keeps its place
    added = added + call('ZADD', KEY_DUE, 'NX', unpack(waiting))
  end
  if values[1] then call('MSET', unpack(values)) end
  if over[1] then call('ZREM', KEY_DUE, unpack(over)) end
  values, waiting, over = {}, {}, {}
end
local function value(cid, json)
  values[#values + 1], values[#values + 2] = cid, json
end
local function finished(cid, json)
  if ARGV[1] ~= '0' then call('SET', cid, json, 'PX', ARGV[1])
  else call('SET', cid, json) end
end
-- whether the JSON speaks of another level than the row that was read
local function stale(stands, i)
  local is_done = find(stands, '"status": "done"', 1, true)
  local needle = (is_done and '"target": ' or '"db_level": ') .. ARGV[i + 1]
  return not find(stands, needle, 1, true) and ARGV[i + 3] ~= stands
end
-- a key of the content that is not ours: noted, and named in the answer
local function odd(key, want)
  foreign(key, want)
  local is = call('TYPE', key).ok
  return {want == 'job' and is == 'string' and 'large' or 'type', key, is, want}
end
-- a post for a content of which its JSON is known, or nothing
local function post(cid, i, stands)
  local json = ARGV[i]
  if stands and stale(stands, i) then
    if find(stands, '%z') then return odd(cid, 'job') end
    return {'again', stands}
  end
  if find(json, '"done"}', -7, true) then
    finished(cid, json)
    if stands then over[#over + 1] = cid end
  else
    waiting[#waiting + 1], waiting[#waiting + 2] = now(), cid
    value(cid, json)
  end
  start_anew(cid, nil, stands, nil)
  return 1
end
-- a post for a job that a worker has, or had
local function post_known(cid, i, stands)
  local job = KEY_JOB .. cid
  local h = redis.pcall('HMGET', job, 'state', 'src', 'target', 'worker', 'rev', 'token',
    'seen', 'filename', 'gate')
  if h.err then
    if find(h.err, 'WRONGTYPE', 1, true) then return odd(job, 'hash') end
    return {'error', h.err}
  end
  local state = h[1]
  if not (state or h[5] or h[6]) and
      not (find(ARGV[i], '"done"}', -7, true) and has_spare(job)) then
    return post(cid, i, stands)
  end
  if state == 'done' then return {'commit', ''} end
  local json, ack = ARGV[i], ARGV[i + 3]
  local target, level, seen, filename =
    string.match(ARGV[i + 2], '^(%Z*)%z(%Z*)%z(%Z*)%z(%Z*)$')
  -- another program moved its file: that is committed before this post counts
  if state and stands and ack ~= stands and says_done(stands) and
      not find(stands, '"target": ' .. ARGV[i + 1], 1, true) then
    return {'again', stands}
  end
  if state and h[2] ~= level and ack ~= h[2] and ack ~= stands then
    return {'again', h[2]}
  end
  if not state and stands and stale(stands, i) then
    if find(stands, '%z') then return odd(cid, 'job') end
    return {'again', stands}
  end
  local head = string.match(json, '^(.*)null, "status": "%l+"}$')
  local done = target == level
  if state == 'claimed' then
    -- a new target, or a row that somebody changed meanwhile: the worker must plan anew
    local changed = target ~= h[3] or level ~= h[2] or (h[7] and seen ~= h[7]) or
      filename ~= h[8]
    call('HSET', job, 'target', target, 'head', head, 'src', level, 'seen', seen,
      'filename', filename)
    if changed then call('HINCRBY', job, 'rev', 1) end
    if not h[4] or h[4] == '' then
      value(cid, json)
      return 1
    end
    json = head .. '"' .. h[4] .. '"' .. string.sub(json, #head + 5)
    value(cid, json)
    return {'ok', json}
  end
  if done and not has_spare(job) then
    finished(cid, json)
    start_anew(cid, job, stands, h[9])
    call('DEL', job)
    over[#over + 1] = cid
    return 1
  end
  if state == 'queued' and h[2] == level and h[3] == target and h[7] == seen and
     h[8] == filename then -- the same move: its count alone is new
    call('HSET', job, 'head', head)
  else
    call('HSET', job, 'state', done and 'cancelled' or 'queued', 'head', head, 'src', level,
      'target', target, 'seen', seen, 'filename', filename, 'rev',
      string.format('%.0f', (tonumber(h[5]) or 0) + 1))
  end
  if state ~= 'queued' or h[9] then -- else it keeps its place there
    call('ZADD', KEY_DUE, now(), cid)
    added = added + 1
  end
  start_anew(cid, job, stands, h[9])
  if h[6] then -- it was claimed once: before, nothing can have failed
    call('HDEL', job, 'error', 'attempts', 'crashes', 'waits')
  end
  value(cid, json)
  return 1
end
local out, as_sent = {}, 0
local function slice(first, last)
  local cids, keys, met = {}, {}, {}
  for k = first, last do
    cids[#cids + 1] = KEYS[k]
    keys[#keys + 1] = KEY_JOB .. KEYS[k]
  end
  local stand = call('MGET', unpack(cids)) -- of a foreign type: as if nothing stood
  for n, cid in ipairs(cids) do
    if not stand[n] then keys[#keys + 1] = cid end
  end
  local known = call('EXISTS', unpack(keys)) > 0
  for n, cid in ipairs(cids) do
    local k, stands, good, how = first + n - 1, stand[n], true, nil
    if met[cid] then flush() end
    if met[cid] or (known and not stands) then stands = redis.pcall('GET', cid) end
    met[cid] = true
    if type(stands) == 'table' or (stands and #stands > JOB_JSON_BYTES) then
      how = odd(cid, 'job')
    else
      good, how = pcall(known and post_known or post, cid, 4 * k - 2, stands)
    end
    if not good then -- an error is a table, or a string before Redis 7
      how = {'error', type(how) == 'table' and how.err or tostring(how)}
    end
    out[k] = how
    if how == 1 then as_sent = as_sent + 1 end
  end
  flush()
end
for first = 1, #KEYS, 64 do slice(first, math.min(first + 63, #KEYS)) end
if added > 0 and watch('EXISTS', KEY_WAKE) == 0 then
  watch('LPUSH', KEY_WAKE, '1')
end
return as_sent == #KEYS and 1 or out
