-- For scripts that write what people watch: events, and what was moved in each ten seconds of the
-- last quarter of an hour (a ring, so that it never grows).
--@include note_at
local function event(...) note(now(), ...) end
local function trouble(what, err)
  event(what, 'error', err)
  watch('XADD', KEY_ERRORS, 'MAXLEN', '~', 100, '*', 'cid', cid, 'what', what,
    'error', err)
end
local function tally(moves, bytes)
  local slot = math.floor(now() / RATE_SLOT_MS)
  local key = string.format('%.0f', slot % RATE_SLOTS)
  local s, m, b = string.match(watch('HGET', KEY_RATES, key) or '',
    '(%d+) (%d+) (%d+)')
  if tonumber(s) ~= slot then m, b = 0, 0 end
  watch('HSET', KEY_RATES, key,
    string.format('%.0f %.0f %.0f', slot, m + moves, b + bytes))
end
local function no_failure()
  watch('ZREM', KEY_DEAD, cid)
  watch('ZREM', KEY_CONFLICT, cid)
end
