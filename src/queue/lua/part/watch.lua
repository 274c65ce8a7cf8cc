-- watch(command, ...) is a call for what only people watch, or what can be done without: its
-- answer, or false when Redis refuses it (a foreign type, a missing right), which then stops
-- nothing.
local function watch(...)
  local r = redis.pcall(...)
  if type(r) == 'table' and r.err then return false end
  return r
end
