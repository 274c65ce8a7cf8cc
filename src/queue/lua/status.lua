-- ARGV: most moves, most workers, events, errors. Those of the dead are dropped on the way.
--@include now
local function list(...) return watch(...) or {} end
local function count(...) return watch(...) or 0 end
local moves, workers, running, alive = {}, {}, 0, 0
local all = list('HGETALL', 'tierd:progress')
for i = 1, #all, 2 do
  local till = tonumber(string.match(all[i + 1], '^%d+ %d+ %d+ %d+ (%d+)') or 0)
  if till < now then
    watch('HDEL', 'tierd:progress', all[i])
  else
    running = running + 1
    if running <= tonumber(ARGV[1]) then
      local h = list('HMGET', 'tierd:job:' .. all[i], 'src', 'target', 'filename')
      moves[running] = {all[i], all[i + 1], h[1] or '', h[2] or '', h[3] or ''}
    end
  end
end
all = list('HGETALL', 'tierd:workers')
for i = 1, #all, 2 do
  local till = tonumber(string.match(all[i + 1], '^%d+ (%d+)') or 0)
  if till < now then
    watch('HDEL', 'tierd:workers', all[i])
  else
    alive = alive + 1
    if alive <= tonumber(ARGV[2]) then
      workers[#workers + 1], workers[#workers + 2] = all[i], all[i + 1]
    end
  end
end
local gates, parked = {}, 0
local function gate(name, till)
  local n = count('ZCARD', 'tierd:parked:' .. name)
  parked = parked + n
  gates[#gates + 1] = {name, till, n, watch('HGET', 'tierd:full', name) or ''}
end
all = list('HGETALL', 'tierd:paused')
for i = 1, #all, 2 do
  gate(all[i], string.match(all[i + 1], '^%d+$') or '0')
end
for _, name in ipairs(list('SMEMBERS', 'tierd:routes')) do gate(name, '0') end
-- jobs that found no room for themselves: no gate, but why they wait. What is due for a while is
-- not known to wait for that any more
all = list('HGETALL', 'tierd:short')
for i = 1, #all, 2 do
  local key = 'tierd:short:' .. all[i]
  watch('ZREMRANGEBYSCORE', key, '-inf', whole(now - 60000))
  local first = list('ZRANGE', key, 0, 0, 'WITHSCORES')
  if not first[2] then watch('HDEL', 'tierd:short', all[i])
  else
    gates[#gates + 1] = {'@space:' .. all[i], first[2], count('ZCARD', key), all[i + 1]}
  end
end
local first = list('ZRANGE', 'tierd:due', 0, 0, 'WITHSCORES')
local ready = count('ZCOUNT', 'tierd:due', '-inf', whole(now))
local known = count('ZCARD', 'tierd:due')
return {whole(now), running, alive, ready, math.max(0, known - ready - running), parked,
  count('ZCARD', 'tierd:dead'), count('ZCARD', 'tierd:conflict'),
  first[2] and tonumber(first[2]) < now and whole(math.min(now, now - first[2])) or '0',
  moves, workers, gates, list('HGETALL', 'tierd:stats'),
  list('HGETALL', 'tierd:rates'), list('HGETALL', 'tierd:use'),
  list('XREVRANGE', 'tierd:events', '+', '-', 'COUNT', ARGV[3]),
  list('XREVRANGE', 'tierd:errors', '+', '-', 'COUNT', ARGV[4]), troubles()}
