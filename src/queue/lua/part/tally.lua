--@include now
--@include watch
--@include whole
-- Counts what was moved in each of the last slots of time: a ring, so that it never grows.
local function tally(moves, bytes)
  local slot = math.floor(now / RATE_SLOT_MS)
  local place = whole(slot % RATE_SLOTS)
  local of, had_moves, had_bytes = string.match(watch('HGET', KEY_RATES, place) or '',
    '(%d+) (%d+) (%d+)')
  if tonumber(of) ~= slot then had_moves, had_bytes = 0, 0 end
  watch('HSET', KEY_RATES, place,
    string.format('%.0f %.0f %.0f', slot, had_moves + moves, had_bytes + bytes))
end
