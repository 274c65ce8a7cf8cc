-- Claims jobs that are due. KEYS[1] is not used.
--
-- What may not start now is parked behind a gate, so that it is not looked at again and again: the
-- level it goes to, all levels, the window, a level that is busy, or a route that this worker
-- cannot serve.
--@arg worker
--@arg lease_ms     how long a claim is the worker's
--@arg opens_ms     until the window opens, or '': it is open
--@arg level_jobs   most moves into one level at once, or '0'
--@arg reach        levels within reach, each between newlines, or '': all
--@arg most         how many to claim at most
-- Answers a list, CLAIMED of each, or in how many ms something is due; -1: nothing is.
--@place CLAIMED cid
--@place CLAIMED token
--@place CLAIMED json     as it stands now, '' when that is no text
--@place CLAIMED fields   of the job: field, value by turns
--@place CLAIMED at       when
--@include foreign
--@include now
--@include says_done
--@include spare_of
--@include wake
--@include whole
local got, full = {}, false
-- what is no time is 0, which of a gate is: until it is resumed
local function ms_of(text) return tonumber(string.match(text or '', '^%d+$') or 0) end
-- asked first, so that nothing is half done when one of them is not ours
local gates = redis.call('HGETALL', KEY_PAUSED)
local routes = redis.call('SMEMBERS', KEY_ROUTES)
-- A clock that was set back would leave everything due only when it has caught up.
local clock = redis.pcall('GET', KEY_CLOCK)
local last = type(clock) == 'table' and now or ms_of(clock)
if now > last + 1000 or now < last then redis.call('SET', KEY_CLOCK, whole(now)) end
if now + 5000 < last then
  local late = redis.call('ZRANGEBYSCORE', KEY_DUE, whole(now), '+inf', 'WITHSCORES')
  for i = 1, #late, 2 do
    redis.call('ZADD', KEY_DUE, whole(math.max(now, late[i + 1] - (last - now))), late[i])
    -- and a dead worker's lock would stand as long; one renewed since has less left
    local held = redis.call('PTTL', KEY_LOCK .. late[i]) - (last - now)
    if held > 0 then redis.call('PEXPIRE', KEY_LOCK .. late[i], held) end
  end
  for i = 1, #gates, 2 do
    local till = ms_of(gates[i + 1])
    if till ~= 0 then
      gates[i + 1] = whole(math.max(1, till - (last - now)))
      redis.call('HSET', KEY_PAUSED, gates[i], gates[i + 1])
    end
  end
end
local paused, next_gate = {}, nil
for i = 1, #gates, 2 do
  local gate, till = gates[i], ms_of(gates[i + 1])
  if till ~= 0 and till <= now then -- it opened: a hundred at a time
    redis.call('ZCARD', KEY_DUE) -- what is taken out there must go in here
    local freed = watch('ZPOPMIN', KEY_PARKED .. gate, 100) or {}
    for k = 1, #freed, 2 do
      redis.call('ZADD', KEY_DUE, freed[k + 1], freed[k])
      watch('HDEL', KEY_JOB .. freed[k], FIELD_GATE)
    end
    if #freed < 200 then
      redis.call('HDEL', KEY_PAUSED, gate)
      watch('HDEL', KEY_FULL, gate)
    end
  else
    paused[gate] = true
    if till ~= 0 and (not next_gate or till < next_gate) then next_gate = till end
  end
end
local function within(level)
  return string.find(reach, '\n' .. level .. '\n', 1, true)
end
local function shut(gate, ms)
  redis.call('HSET', KEY_PAUSED, gate, whole(now + ms))
  return gate
end
-- the levels that a job touches, when one of them is out of reach
local function route(job, src, target)
  if reach == '' then return nil end
  local all, out = {src, target}, false
  for _, field in ipairs(redis.call('HKEYS', job)) do
    local spare = spare_of(field)
    if spare then all[#all + 1] = spare end
  end
  table.sort(all)
  local gate = GATE_ROUTE
  for i, level in ipairs(all) do
    out = out or not within(level)
    if level ~= all[i - 1] then gate = gate .. level .. '\n' end
  end
  if not out then return nil end
  redis.call('SADD', KEY_ROUTES, gate)
  return gate
end
local function gate_of(job, state, src, target)
  local starts = state == STATE_QUEUED or state == STATE_BACKOFF
  if starts and paused[GATE_ALL] then return GATE_ALL end
  local away = route(job, src, target) -- whose window is not ours
  if away then return away end
  if starts then
    if opens_ms ~= '' then return shut(GATE_WINDOW, opens_ms) end
    if paused[target] then return target end
    if level_jobs ~= '0' then
      local active = KEY_ACTIVE .. target
      watch('ZREMRANGEBYSCORE', active, '-inf', whole(now))
      if (watch('ZCARD', active) or 0) >= tonumber(level_jobs) then
        return shut(GATE_BUSY .. target, lease_ms)
      end
    end
  end
  return nil
end
local function later(from, cid, ms)
  redis.call('ZADD', from, whole(now + ms), cid)
end
local function hold(from, cid, job, gate)
  if not watch('ZADD', KEY_PARKED .. gate, whole(now), cid) then
    return later(from, cid, lease_ms)
  end
  redis.call('ZREM', from, cid)
  redis.call('HSET', job, FIELD_GATE, gate)
end
-- The job of a post that nobody has claimed before: made from its JSON as job_write writes it.
-- Others, names with escapes in them, and what job_read may find out of bounds, are read by the
-- worker (begin).
local function enlist(cid, job)
  local stands = redis.pcall('GETRANGE', cid, '0', JOB_JSON_BYTES_TEXT)
  if type(stands) ~= 'string' then return nil end
  local head, id, count, target, src, name = string.match(stands, '^({"cid": "(%d+)", ' ..
    '"count": "(%d+)", "target": "([^"\\]+)", "db_level": "([^"\\]+)", ' ..
    '"filename": "([^"\\]+)", "worker_id": )null, "status": "update"}$')
  if id ~= cid or #count > 18 or #target >= JOB_LEVEL_BYTES or #src >= JOB_LEVEL_BYTES or
      #name >= JOB_NAME_BYTES then
    return nil
  end
  redis.call('HSET', job, FIELD_STATE, STATE_QUEUED, FIELD_HEAD, head, FIELD_SRC, src,
    FIELD_TARGET, target, FIELD_FILENAME, name)
  redis.call('HINCRBY', job, FIELD_REV, 1)
  return STATE_QUEUED, src, target
end
-- what a claimed move, and no other claim, writes: the JSON that stands then
local function start(cid, job, head, target, stands)
  watch('HSET', KEY_PROGRESS, cid,
    string.format('0 0 0 %.0f %.0f %s', now, now + lease_ms, worker))
  if level_jobs ~= '0' and watch('ZADD', KEY_ACTIVE .. target, whole(now + lease_ms), cid) then
    redis.call('HSET', job, FIELD_ACTIVE, target)
  end
  -- but not what another program set to done: that is to be committed
  if head and string.sub(stands, 1, #head) == head and not says_done(stands) then
    stands = head .. '"' .. worker .. '", "status": "update"}'
    redis.call('SET', cid, stands)
  end
  return stands
end
local function take(from, cid, job, token)
  local state, holder, head, target, last_token, last_target, short = unpack(redis.call('HMGET',
    job, FIELD_STATE, FIELD_WORKER, FIELD_HEAD, FIELD_TARGET, FIELD_TOKEN, FIELD_AT, FIELD_SHORT))
  if short then
    watch('ZREM', KEY_SHORT_JOBS .. short, cid)
    redis.call('HDEL', job, FIELD_SHORT)
  end
  local moves = state == STATE_QUEUED or state == STATE_BACKOFF or state == STATE_CLAIMED
  -- that one is taken for dead; if it lives, it takes that back. What we hold ourselves we did not
  -- die of: the answer to that claim was lost
  if holder and holder ~= worker then
    redis.call('HINCRBY', job, FIELD_CRASHES, 1)
    redis.call('HSET', job, FIELD_CRASHED, last_token or '')
    -- a post may have changed the target: nobody else would look at what that one left there
    if last_target and (reach == '' or within(last_target)) then
      redis.call('HSETNX', job, FIELD_SPARE .. last_target, '0')
    end
  end
  if moves then
    redis.call('HSET', job, FIELD_TOKEN, whole(token), FIELD_WORKER, worker,
      FIELD_STATE, STATE_CLAIMED, FIELD_AT, target)
  else redis.call('HSET', job, FIELD_TOKEN, whole(token), FIELD_WORKER, worker) end
  local stands = redis.pcall('GETRANGE', cid, '0', JOB_JSON_BYTES_TEXT)
  if type(stands) == 'table' then stands = '' end -- not a string: not ours
  if moves then stands = start(cid, job, head, target, stands) end
  if from ~= KEY_DUE then
    redis.call('ZREM', from, cid)
    redis.call('HDEL', job, FIELD_GATE)
  end
  redis.call('ZADD', KEY_DUE, whole(now + lease_ms), cid)
  got[#got + 1] = {[CLAIMED_CID] = cid, [CLAIMED_TOKEN] = whole(token), [CLAIMED_JSON] = stands,
    [CLAIMED_FIELDS] = redis.call('HGETALL', job), [CLAIMED_AT] = whole(now)}
end
local function consider(from, cid)
  local job, lock = KEY_JOB .. cid, KEY_LOCK .. cid
  local known = redis.pcall('HMGET', job, FIELD_STATE, FIELD_SRC, FIELD_TARGET, FIELD_WORKER,
    FIELD_CRASHES)
  if known.err and string.find(known.err, 'WRONGTYPE', 1, true) then -- not of our making
    foreign(job, 'hash')
    return later(from, cid, lease_ms)
  elseif known.err then
    error(known.err)
  end
  local state, src, target, holder, crashes = unpack(known)
  if not state then state, src, target = enlist(cid, job) end
  local gate = state and src and target and gate_of(job, state, src, target)
  -- somebody may have died of it: it is taken alone, or left for the next claim
  local risky = holder or (crashes and crashes ~= '0')
  if risky and got[1] then return end
  if not state and (redis.call('TYPE', cid).ok ~= 'string' or
      not string.find(cid, '^[1-9]%d*$')) then
    if redis.call('EXISTS', cid) == 1 then foreign(cid, 'job') end
    redis.call('ZREM', from, cid)
    return
  end
  if gate then
    if KEY_PARKED .. gate ~= from then hold(from, cid, job, gate) end
    return
  end
  local token = redis.call('INCR', KEY_TOKEN) -- which may be refused: no lock without one
  if redis.call('SET', lock, worker, 'NX', 'PX', lease_ms) then
    take(from, cid, job, token)
    full = risky
    return
  end
  -- held: look again when the claim ends, at the latest a lease from now, for what is somebody
  -- else's may be given up sooner
  local left, lease = redis.call('PTTL', lock), tonumber(lease_ms)
  if left < 0 and redis.call('TYPE', lock).ok ~= 'string' then foreign(lock, 'string') end
  later(from, cid, (left >= 0 and left <= lease and left or lease) + 1)
end
local function look(from)
  local ask = from == KEY_DUE and redis.call or watch
  local cids = ask('ZRANGEBYSCORE', from, '-inf', whole(now), 'LIMIT', 0, 16 + most)
  for _, cid in ipairs(cids or {}) do
    if full or #got == tonumber(most) then return end
    consider(from, cid)
  end
end
look(KEY_DUE)
for _, gate in ipairs(routes) do
  local mine = true
  for level in string.gmatch(string.sub(gate, #GATE_ROUTE + 1), '[^\n]+') do
    mine = mine and (reach == '' or within(level))
  end
  if mine then look(KEY_PARKED .. gate) end
  if redis.call('EXISTS', KEY_PARKED .. gate) == 0 then
    redis.call('SREM', KEY_ROUTES, gate)
  end
end
if got[1] then
  if redis.call('ZCOUNT', KEY_DUE, '-inf', whole(now)) > 0 then wake() end
  return got
end
local first = redis.call('ZRANGE', KEY_DUE, 0, 0, 'WITHSCORES')[2]
local till = first and tonumber(first) or next_gate
if next_gate and till > next_gate then till = next_gate end
if till then return math.max(0, math.min(86400000, math.ceil(till - now))) end
return -1
