-- ARGV: most moves, most workers, events, errors. Those of the dead are dropped on the way.
--@include reading
local function list(...) return watch(...) or {} end
local function count(...) return watch(...) or 0 end
local moves, workers, running, alive = {}, {}, 0, 0
local all = list('HGETALL', KEY_PROGRESS)
for i = 1, #all, 2 do
  local till = tonumber(string.match(all[i + 1], '^%d+ %d+ %d+ %d+ (%d+)') or 0)
  if till < now then
    watch('HDEL', KEY_PROGRESS, all[i])
  else
    running = running + 1
    if running <= tonumber(ARGV[1]) then
      local h = list('HMGET', KEY_JOB .. all[i], 'src', 'target', 'filename')
      moves[running] = {all[i], all[i + 1], h[1] or '', h[2] or '', h[3] or ''}
    end
  end
end
all = list('HGETALL', KEY_WORKERS)
for i = 1, #all, 2 do
  local till = tonumber(string.match(all[i + 1], '^%d+ (%d+)') or 0)
  if till < now then
    watch('HDEL', KEY_WORKERS, all[i])
  else
    alive = alive + 1
    if alive <= tonumber(ARGV[2]) then
      workers[#workers + 1], workers[#workers + 2] = all[i], all[i + 1]
    end
  end
end
local gates, parked = {}, 0
local function gate(name, till)
  local n = count('ZCARD', KEY_PARKED .. name)
  parked = parked + n
  gates[#gates + 1] = {name, till, n, watch('HGET', KEY_FULL, name) or ''}
end
all = list('HGETALL', KEY_PAUSED)
for i = 1, #all, 2 do
  gate(all[i], string.match(all[i + 1], '^%d+$') or '0')
end
for _, name in ipairs(list('SMEMBERS', KEY_ROUTES)) do gate(name, '0') end
-- jobs that found no room for themselves: no gate, but why they wait. What is due for a while is
-- not known to wait for that any more
all = list('HGETALL', KEY_SHORT)
for i = 1, #all, 2 do
  local key = KEY_SHORT_JOBS .. all[i]
  watch('ZREMRANGEBYSCORE', key, '-inf', whole(now - 60000))
  local first = list('ZRANGE', key, 0, 0, 'WITHSCORES')
  if not first[2] then watch('HDEL', KEY_SHORT, all[i])
  else
    gates[#gates + 1] = {GATE_SPACE .. all[i], first[2], count('ZCARD', key), all[i + 1]}
  end
end
local first = list('ZRANGE', KEY_DUE, 0, 0, 'WITHSCORES')
local ready = count('ZCOUNT', KEY_DUE, '-inf', whole(now))
local known = count('ZCARD', KEY_DUE)
return {whole(now), running, alive, ready, math.max(0, known - ready - running), parked,
  count('ZCARD', KEY_DEAD), count('ZCARD', KEY_CONFLICT),
  first[2] and tonumber(first[2]) < now and whole(math.min(now, now - first[2])) or '0',
  moves, workers, gates, list('HGETALL', KEY_STATS),
  list('HGETALL', KEY_RATES), list('HGETALL', KEY_USE),
  list('XREVRANGE', KEY_EVENTS, '+', '-', 'COUNT', ARGV[3]),
  list('XREVRANGE', KEY_ERRORS, '+', '-', 'COUNT', ARGV[4]), troubles()}
