-- ARGV: worker, lease, ms until the window opens or '', most jobs into one level or '0', levels
-- within reach, each between newlines, or '', how many to claim. KEYS[1] is not a cid here. What
-- may not start now is parked behind a gate, so that it is not looked at again and again: the level
-- it goes to, all levels, the window, a level that is busy, or a route that this worker cannot
-- serve.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local worker, lease, opens, most, reach, want = unpack(ARGV)
local got, full = {}, false
--@include watch
--@include foreign
--@include says_done
local function score(at) return string.format('%.0f', at) end
local function wake()
  if watch('EXISTS', KEY_WAKE) == 0 then watch('LPUSH', KEY_WAKE, '1') end
end
-- what is no time is 0, which of a gate is: until it is resumed
local function time(text) return tonumber(string.match(text or '', '^%d+$') or 0) end
-- asked first, so that nothing is half done when one of them is not ours
local known = redis.call('HGETALL', KEY_PAUSED)
local routes = redis.call('SMEMBERS', KEY_ROUTES)
-- A clock that was set back would leave everything due only when it has caught up.
local clock = redis.pcall('GET', KEY_CLOCK)
local last = type(clock) == 'table' and now or time(clock)
if now > last + 1000 or now < last then redis.call('SET', KEY_CLOCK, score(now)) end
if now + 5000 < last then
  local late = redis.call('ZRANGEBYSCORE', KEY_DUE, score(now), '+inf', 'WITHSCORES')
  for i = 1, #late, 2 do
    redis.call('ZADD', KEY_DUE, score(math.max(now, late[i + 1] - (last - now))), late[i])
    -- and a dead worker's lock would stand as long; one renewed since has less left
    local held = redis.call('PTTL', KEY_LOCK .. late[i]) - (last - now)
    if held > 0 then redis.call('PEXPIRE', KEY_LOCK .. late[i], held) end
  end
  for i = 1, #known, 2 do
    local till = time(known[i + 1])
    if till ~= 0 then
      known[i + 1] = score(math.max(1, till - (last - now)))
      redis.call('HSET', KEY_PAUSED, known[i], known[i + 1])
    end
  end
end
local paused, next_gate = {}, nil
for i = 1, #known, 2 do
  local gate, till = known[i], time(known[i + 1])
  if till ~= 0 and till <= now then -- it opened: a hundred at a time
    redis.call('ZCARD', KEY_DUE) -- what is taken out there must go in here
    local freed = watch('ZPOPMIN', KEY_PARKED .. gate, 100) or {}
    for k = 1, #freed, 2 do
      redis.call('ZADD', KEY_DUE, freed[k + 1], freed[k])
      watch('HDEL', KEY_JOB .. freed[k], 'gate')
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
  redis.call('HSET', KEY_PAUSED, gate, score(now + ms))
  return gate
end
-- the levels that a job touches, when one of them is out of reach
local function route(job, src, target)
  if reach == '' then return nil end
  local all, out = {src, target}, false
  for _, f in ipairs(redis.call('HKEYS', job)) do
    if string.sub(f, 1, #FIELD_SPARE) == FIELD_SPARE then
      all[#all + 1] = string.sub(f, #FIELD_SPARE + 1)
    end
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
  local starts = state == 'queued' or state == 'backoff'
  if starts and paused[GATE_ALL] then return GATE_ALL end
  local away = route(job, src, target) -- whose window is not ours
  if away then return away end
  if starts then
    if opens ~= '' then return shut(GATE_WINDOW, opens) end
    if paused[target] then return target end
    if most ~= '0' then
      local active = KEY_ACTIVE .. target
      watch('ZREMRANGEBYSCORE', active, '-inf', score(now))
      if (watch('ZCARD', active) or 0) >= tonumber(most) then
        return shut(GATE_BUSY .. target, lease)
      end
    end
  end
  return nil
end
local function later(from, cid, ms)
  redis.call('ZADD', from, score(now + ms), cid)
end
local function hold(from, cid, job, gate)
  if not watch('ZADD', KEY_PARKED .. gate, score(now), cid) then
    return later(from, cid, lease)
  end
  redis.call('ZREM', from, cid)
  redis.call('HSET', job, 'gate', gate)
end
-- The job of a post that nobody has claimed before: made from its JSON as job_write writes it.
-- Others, names with escapes in them, and what job_read may find out of bounds, are read by the
-- worker (QUEUE_BEGIN).
local function enlist(cid, job)
  local stands = redis.pcall('GETRANGE', cid, 0, JOB_JSON_BYTES)
  if type(stands) ~= 'string' then return nil end
  local head, id, count, target, src, name = string.match(stands, '^({"cid": "(%d+)", ' ..
    '"count": "(%d+)", "target": "([^"\\]+)", "db_level": "([^"\\]+)", ' ..
    '"filename": "([^"\\]+)", "worker_id": )null, "status": "update"}$')
  if id ~= cid or #count > 18 or #target >= JOB_LEVEL_BYTES or #src >= JOB_LEVEL_BYTES or
      #name >= JOB_NAME_BYTES then
    return nil
  end
  redis.call('HSET', job, 'state', 'queued', 'head', head, 'src', src, 'target', target,
    'filename', name)
  redis.call('HINCRBY', job, 'rev', 1)
  return 'queued', src, target
end
local function take(from, cid, job, lock, token)
  local h = redis.call('HMGET', job, 'state', 'worker', 'head', 'target', 'token', 'short',
    'at')
  if h[6] then
    watch('ZREM', KEY_SHORT_JOBS .. h[6], cid)
    redis.call('HDEL', job, 'short')
  end
  local moves = h[1] == 'queued' or h[1] == 'backoff' or h[1] == 'claimed'
  -- that one is taken for dead; if it lives, it takes that back. What we hold ourselves we did not
  -- die of: the answer to that claim was lost
  if h[2] and h[2] ~= worker then
    redis.call('HINCRBY', job, 'crashes', 1)
    redis.call('HSET', job, 'dead', h[5] or '')
    -- a post may have changed the target: nobody else would look at what that one left there
    if h[7] and (reach == '' or within(h[7])) then
      redis.call('HSETNX', job, FIELD_SPARE .. h[7], '0')
    end
  end
  if moves then
    redis.call('HSET', job, 'token', score(token), 'worker', worker, 'state', 'claimed',
      'at', h[4])
  else redis.call('HSET', job, 'token', score(token), 'worker', worker) end
  local stands = redis.pcall('GETRANGE', cid, 0, JOB_JSON_BYTES)
  if type(stands) == 'table' then stands = '' end -- not a string: not ours
  if moves then
    watch('HSET', KEY_PROGRESS, cid,
      string.format('0 0 0 %.0f %.0f %s', now, now + lease, worker))
    if most ~= '0' and watch('ZADD', KEY_ACTIVE .. h[4], score(now + lease), cid) then
      redis.call('HSET', job, 'active', h[4])
    end
    -- but not what another program set to done: that is to be committed
    if h[3] and string.sub(stands, 1, #h[3]) == h[3] and not says_done(stands) then
      stands = h[3] .. '"' .. worker .. '", "status": "update"}'
      redis.call('SET', cid, stands)
    end
  end
  if from ~= KEY_DUE then
    redis.call('ZREM', from, cid)
    redis.call('HDEL', job, 'gate')
  end
  redis.call('ZADD', KEY_DUE, score(now + lease), cid)
  got[#got + 1] = {cid, score(token), stands, redis.call('HGETALL', job), score(now)}
end
local function look(from)
  local ask = from == KEY_DUE and redis.call or watch
  local cids = ask('ZRANGEBYSCORE', from, '-inf', score(now), 'LIMIT', 0, 16 + want)
  for _, cid in ipairs(cids or {}) do
    if full or #got == tonumber(want) then return end
    local job, lock = KEY_JOB .. cid, KEY_LOCK .. cid
    local h = redis.pcall('HMGET', job, 'state', 'src', 'target', 'worker', 'crashes')
    if not h.err and not h[1] then h[1], h[2], h[3] = enlist(cid, job) end
    local gate = h[1] and h[2] and h[3] and gate_of(job, h[1], h[2], h[3])
    -- somebody may have died of it: it is taken alone, or left for the next claim
    local risky = h[4] or (h[5] and h[5] ~= '0')
    if risky and got[1] then
    elseif h.err and string.find(h.err, 'WRONGTYPE', 1, true) then -- not of our making
      foreign(job, 'hash')
      later(from, cid, lease)
    elseif h.err then
      error(h.err)
    elseif not h[1] and (redis.call('TYPE', cid).ok ~= 'string' or
        not string.find(cid, '^[1-9]%d*$')) then
      if redis.call('EXISTS', cid) == 1 then foreign(cid, 'job') end
      redis.call('ZREM', from, cid)
    elseif gate then
      if KEY_PARKED .. gate ~= from then hold(from, cid, job, gate) end
    else -- the token first, which may be refused: no lock without one
      local token = redis.call('INCR', KEY_TOKEN)
      if redis.call('SET', lock, worker, 'NX', 'PX', lease) then
        take(from, cid, job, lock, token)
        full = risky
      else -- held: look again when the claim ends, at the latest a lease from now
        local left = redis.call('PTTL', lock)
        if left > tonumber(lease) then -- somebody else's, given up sooner perhaps
          left = tonumber(lease)
        elseif left < 0 then
          left = tonumber(lease)
          if redis.call('TYPE', lock).ok ~= 'string' then foreign(lock, 'string') end
        end
        later(from, cid, left + 1)
      end
    end
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
  if redis.call('ZCOUNT', KEY_DUE, '-inf', score(now)) > 0 then wake() end
  return got
end
local first = redis.call('ZRANGE', KEY_DUE, 0, 0, 'WITHSCORES')
local till = first[2] and tonumber(first[2]) or next_gate
if next_gate and till > next_gate then till = next_gate end
if till then return math.max(0, math.min(86400000, math.ceil(till - now))) end
return -1
