--@include watch
-- Wakes a sleeper.
local function wake()
  if watch('EXISTS', KEY_WAKE) == 0 then watch('LPUSH', KEY_WAKE, '1') end
end
