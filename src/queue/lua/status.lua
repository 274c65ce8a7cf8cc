-- What people see of the whole. Whatever they look at is shown as far as it can be read: what is
-- not ours is as if it were not there, and is named beside it (job/keys). What the dead left is
-- dropped on the way. KEYS[1] is not used.
--@arg moves_most    so many are shown at most, of each
--@arg workers_most
--@arg events_most
--@arg errors_most
--@place STATUS now
--@place STATUS running    moves under way
--@place STATUS alive      workers
--@place STATUS ready      jobs that are due,
--@place STATUS later      that wait for their time,
--@place STATUS parked     behind a gate,
--@place STATUS dead
--@place STATUS conflict   and that ended so
--@place STATUS age        ms for which the oldest has been due
--@place STATUS moves      MOVE of each
--@place STATUS workers    worker, "began until" by turns
--@place STATUS gates      SHUT of each
--@place STATUS stats      name, number by turns
--@place STATUS rates      slot, "slot moves bytes" by turns
--@place STATUS use        level, "used free" by turns
--@place STATUS events     as XREVRANGE answers,
--@place STATUS errors     likewise
--@place STATUS trouble    TROUBLE of each
--@place MOVE cid
--@place MOVE progress     as in KEY_PROGRESS
--@place MOVE src
--@place MOVE target
--@place MOVE filename
--@place SHUT gate
--@place SHUT until        when it opens; '0': when it is resumed, or a worker comes
--@place SHUT jobs         how many wait behind it
--@place SHUT why          it is full, a sentence, or ''
--@include now
--@include troubles
--@include watch
--@include whole
local function list(...) return watch(...) or {} end
local function count(...) return watch(...) or 0 end
-- Calls `each` with the pairs of a hash whose value says, where the pattern has it, until when it
-- lasts. What is over is dropped.
local function lasting(key, pattern, each)
  local all = list('HGETALL', key)
  for i = 1, #all, 2 do
    if tonumber(string.match(all[i + 1], pattern) or 0) < now then watch('HDEL', key, all[i])
    else each(all[i], all[i + 1]) end
  end
end
local moves, running = {}, 0
lasting(KEY_PROGRESS, '^%d+ %d+ %d+ %d+ (%d+)', function(cid, progress)
  running = running + 1
  if running > tonumber(moves_most) then return end
  local job = list('HMGET', KEY_JOB .. cid, FIELD_SRC, FIELD_TARGET, FIELD_FILENAME)
  local src, target, filename = unpack(job)
  moves[running] = {[MOVE_CID] = cid, [MOVE_PROGRESS] = progress, [MOVE_SRC] = src or '',
    [MOVE_TARGET] = target or '', [MOVE_FILENAME] = filename or ''}
end)
local workers, alive = {}, 0
lasting(KEY_WORKERS, '^%d+ (%d+)', function(worker, spans)
  alive = alive + 1
  if alive > tonumber(workers_most) then return end
  workers[#workers + 1], workers[#workers + 2] = worker, spans
end)
local gates, parked = {}, 0
local function shut(gate, till, jobs, why)
  gates[#gates + 1] = {[SHUT_GATE] = gate, [SHUT_UNTIL] = till, [SHUT_JOBS] = jobs,
    [SHUT_WHY] = why}
end
local function parked_behind(gate, till)
  local jobs = count('ZCARD', KEY_PARKED .. gate)
  parked = parked + jobs
  shut(gate, till, jobs, watch('HGET', KEY_FULL, gate) or '')
end
local paused = list('HGETALL', KEY_PAUSED)
for i = 1, #paused, 2 do
  parked_behind(paused[i], string.match(paused[i + 1], '^%d+$') or '0')
end
for _, gate in ipairs(list('SMEMBERS', KEY_ROUTES)) do parked_behind(gate, '0') end
-- jobs that found no room for themselves: no gate, but why they wait. What is due for a while is
-- not known to wait for that any more
local short = list('HGETALL', KEY_SHORT)
for i = 1, #short, 2 do
  local key = KEY_SHORT_JOBS .. short[i]
  watch('ZREMRANGEBYSCORE', key, '-inf', whole(now - 60000))
  local first = list('ZRANGE', key, 0, 0, 'WITHSCORES')
  if not first[2] then watch('HDEL', KEY_SHORT, short[i])
  else shut(GATE_SPACE .. short[i], first[2], count('ZCARD', key), short[i + 1]) end
end
local first = list('ZRANGE', KEY_DUE, 0, 0, 'WITHSCORES')[2]
local ready = count('ZCOUNT', KEY_DUE, '-inf', whole(now))
local known = count('ZCARD', KEY_DUE)
return {
  [STATUS_NOW] = whole(now), [STATUS_RUNNING] = running, [STATUS_ALIVE] = alive,
  [STATUS_READY] = ready, [STATUS_LATER] = math.max(0, known - ready - running),
  [STATUS_PARKED] = parked,
  [STATUS_DEAD] = count('ZCARD', KEY_DEAD), [STATUS_CONFLICT] = count('ZCARD', KEY_CONFLICT),
  [STATUS_AGE] = first and tonumber(first) < now and whole(math.min(now, now - first)) or '0',
  [STATUS_MOVES] = moves, [STATUS_WORKERS] = workers, [STATUS_GATES] = gates,
  [STATUS_STATS] = list('HGETALL', KEY_STATS), [STATUS_RATES] = list('HGETALL', KEY_RATES),
  [STATUS_USE] = list('HGETALL', KEY_USE),
  [STATUS_EVENTS] = list('XREVRANGE', KEY_EVENTS, '+', '-', 'COUNT', events_most),
  [STATUS_ERRORS] = list('XREVRANGE', KEY_ERRORS, '+', '-', 'COUNT', errors_most),
  [STATUS_TROUBLE] = troubles(),
}
