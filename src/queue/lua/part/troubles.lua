--@include now
--@include watch
--@place TROUBLE level
--@place TROUBLE host    that cannot use it
--@place TROUBLE since
--@place TROUBLE text    why, a sentence
-- Each trouble that somebody speaks of; what nobody does any more is dropped on the way.
local function troubles()
  local all, out = watch('HGETALL', KEY_TROUBLE) or {}, {}
  for i = 1, #all, 2 do
    local level, host = string.match(all[i], '^(.*)\n(.*)$')
    local till, since, text = string.match(all[i + 1], '^(%d+) (%d+) (.*)$')
    local gone = not level or not till or tonumber(till) < now
    if gone then watch('HDEL', KEY_TROUBLE, all[i]) end
    if not gone and #out < TROUBLES_MOST then
      out[#out + 1] = {[TROUBLE_LEVEL] = level, [TROUBLE_HOST] = host,
        [TROUBLE_SINCE] = since, [TROUBLE_TEXT] = text}
    end
  end
  return out
end
