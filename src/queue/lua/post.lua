-- Posts for several contents, whose cids are KEYS.
--@arg ttl   how long the JSON of what is where it belongs stays, in ms; '0': for ever
-- and then of each post:
--@place POST json    as nobody has claimed it: update, or done
--@place POST level   of the row, as JSON
--@place POST facts   target, level, seen and filename, with a NUL between
--@place POST ack     what the last answer, SAID_AGAIN, had in its text, or ''
-- Answers an element for each: 1 when the JSON now stands as it was sent, else POSTED, or AMISS
-- with SAID_TYPE or SAID_LARGE. When all of them are 1, a single 1 (hiredis allocates for each
-- element).
--@place POSTED how    SAID_OK, SAID_AGAIN, SAID_COMMIT or SAID_ERROR
--@place POSTED text   the JSON; what Redis believes; nothing; the server's words
--
-- Each post is what it would be alone, and one that fails leaves the others alone: what may be
-- refused (a foreign type, memory) is so before its first write. A slice of them shares what can be
-- asked and written for many at once (64: unpack's stack has room for thousands); a cid that comes
-- again in it sees all that was written before.
--
-- Of a job that no worker has claimed yet its JSON and its place in KEY_DUE are all there is: the
-- claim makes the hash. So one EXISTS for the slice tells that nothing more is known, as is nearly
-- always so of contents that are counted.
--
-- Nothing is called so often: each function that a script makes costs every call of it a tenth of a
-- microsecond, so that it includes what posts need, and no more.
--@include foreign
--@include has_spare
--@include says_done
local call, find, at, values, waiting, over = redis.call, string.find, false, {}, {}, {}
local added = 0
call('ZCARD', KEY_DUE)
local function now()
  if not at then
    local time = call('TIME')
    at = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
  end
  return at
end
-- what a new start takes off: its failure, the gate that it was parked behind
local function start_anew(cid, job, stands, gate)
  if stands and find(stands, '"error": ', 1, true) then
    watch('ZREM', KEY_DEAD, cid)
    watch('ZREM', KEY_CONFLICT, cid)
  end
  if gate then
    watch('ZREM', KEY_PARKED .. gate, cid)
    call('HDEL', job, FIELD_GATE)
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
  if ttl ~= '0' then call('SET', cid, json, 'PX', ttl)
  else call('SET', cid, json) end
end
-- whether the JSON speaks of another level than the row that was read
local function stale(stands, i)
  local is_done = find(stands, '"status": "done"', 1, true)
  local needle = (is_done and '"target": ' or '"db_level": ') .. ARGV[i + POST_LEVEL]
  return not find(stands, needle, 1, true) and ARGV[i + POST_ACK] ~= stands
end
-- a key of the content that is not ours: noted, and named in the answer
local function odd(key, want)
  foreign(key, want)
  local is = call('TYPE', key).ok
  local how = want == 'job' and is == 'string' and SAID_LARGE or SAID_TYPE
  return {[AMISS_GRADE] = how, [AMISS_KEY] = key, [AMISS_IS] = is, [AMISS_WANT] = want}
end
-- a post for a content of which its JSON is known, or nothing
local function post(cid, i, stands)
  local json = ARGV[i + POST_JSON]
  if stands and stale(stands, i) then
    if find(stands, '%z') then return odd(cid, 'job') end
    return {[POSTED_HOW] = SAID_AGAIN, [POSTED_TEXT] = stands}
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
  local job, json, ack = KEY_JOB .. cid, ARGV[i + POST_JSON], ARGV[i + POST_ACK]
  local known = redis.pcall('HMGET', job, FIELD_STATE, FIELD_SRC, FIELD_TARGET, FIELD_SEEN,
    FIELD_FILENAME, FIELD_WORKER, FIELD_REV, FIELD_TOKEN, FIELD_GATE)
  if known.err then
    if find(known.err, 'WRONGTYPE', 1, true) then return odd(job, 'hash') end
    return {[POSTED_HOW] = SAID_ERROR, [POSTED_TEXT] = known.err}
  end
  local state, its_level, its_target, its_seen, its_filename, worker, rev, token, gate =
    unpack(known)
  if not (state or rev or token) and not (find(json, '"done"}', -7, true) and has_spare(job)) then
    return post(cid, i, stands)
  end
  if state == STATE_DONE then return {[POSTED_HOW] = SAID_COMMIT, [POSTED_TEXT] = ''} end
  local target, level, seen, filename =
    string.match(ARGV[i + POST_FACTS], '^(%Z*)%z(%Z*)%z(%Z*)%z(%Z*)$')
  -- another program moved its file: that is committed before this post counts
  if state and stands and ack ~= stands and says_done(stands) and
      not find(stands, '"target": ' .. ARGV[i + POST_LEVEL], 1, true) then
    return {[POSTED_HOW] = SAID_AGAIN, [POSTED_TEXT] = stands}
  end
  if state and its_level ~= level and ack ~= its_level and ack ~= stands then
    return {[POSTED_HOW] = SAID_AGAIN, [POSTED_TEXT] = its_level}
  end
  if not state and stands and stale(stands, i) then
    if find(stands, '%z') then return odd(cid, 'job') end
    return {[POSTED_HOW] = SAID_AGAIN, [POSTED_TEXT] = stands}
  end
  local head = string.match(json, '^(.*)null, "status": "%l+"}$')
  local done = target == level
  if state == STATE_CLAIMED then
    -- a new target, or a row that somebody changed meanwhile: the worker must plan anew
    local changed = target ~= its_target or level ~= its_level or
      (its_seen and seen ~= its_seen) or filename ~= its_filename
    call('HSET', job, FIELD_TARGET, target, FIELD_HEAD, head, FIELD_SRC, level, FIELD_SEEN, seen,
      FIELD_FILENAME, filename)
    if changed then call('HINCRBY', job, FIELD_REV, 1) end
    if not worker or worker == '' then
      value(cid, json)
      return 1
    end
    json = head .. '"' .. worker .. '"' .. string.sub(json, #head + 5)
    value(cid, json)
    return {[POSTED_HOW] = SAID_OK, [POSTED_TEXT] = json}
  end
  if done and not has_spare(job) then
    finished(cid, json)
    start_anew(cid, job, stands, gate)
    call('DEL', job)
    over[#over + 1] = cid
    return 1
  end
  if not done and state == STATE_QUEUED and its_level == level and its_target == target and
     its_seen == seen and its_filename == filename then -- the same move: its count alone is new
    call('HSET', job, FIELD_HEAD, head)
  else
    call('HSET', job, FIELD_STATE, done and STATE_CANCELLED or STATE_QUEUED, FIELD_HEAD, head,
      FIELD_SRC, level, FIELD_TARGET, target, FIELD_SEEN, seen, FIELD_FILENAME, filename,
      FIELD_REV, string.format('%.0f', (tonumber(rev) or 0) + 1))
  end
  if state ~= STATE_QUEUED or gate then -- else it keeps its place there
    call('ZADD', KEY_DUE, now(), cid)
    added = added + 1
  end
  start_anew(cid, job, stands, gate)
  if token then -- it was claimed once: before, nothing can have failed
    call('HDEL', job, FIELD_ERROR, FIELD_ATTEMPTS, FIELD_CRASHES, FIELD_WAITS)
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
    local k, stands, good, how = first + n - 1, stand[n], true
    if met[cid] then flush() end
    if met[cid] or (known and not stands) then stands = redis.pcall('GET', cid) end
    met[cid] = true
    if type(stands) == 'table' or (stands and #stands > JOB_JSON_BYTES) then
      how = odd(cid, 'job')
    else
      good, how = pcall(known and post_known or post, cid, 1 + POST_PLACES * (k - 1), stands)
    end
    if not good then -- an error is a table, or a string before Redis 7
      local words = type(how) == 'table' and how.err or tostring(how)
      how = {[POSTED_HOW] = SAID_ERROR, [POSTED_TEXT] = words}
    end
    out[k] = how
    if how == 1 then as_sent = as_sent + 1 end
  end
  flush()
end
for first = 1, #KEYS, 64 do slice(first, math.min(first + 63, #KEYS)) end
if added > 0 and watch('EXISTS', KEY_WAKE) == 0 then watch('LPUSH', KEY_WAKE, '1') end
return as_sent == #KEYS and 1 or out
