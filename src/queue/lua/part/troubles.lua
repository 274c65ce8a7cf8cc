-- tierd:trouble as elements {level, host, since, sentence}; what nobody speaks of any more is
-- dropped on the way. Needs watch.
local function troubles()
  local all, out = watch('HGETALL', KEY_TROUBLE) or {}, {}
  for i = 1, #all, 2 do
    local level, host = string.match(all[i], '^(.*)\n(.*)$')
    local till, since, text = string.match(all[i + 1], '^(%d+) (%d+) (.*)$')
    local gone = not level or not till or tonumber(till) < now
    if gone then watch('HDEL', KEY_TROUBLE, all[i]) end
    if not gone and #out < 64 then out[#out + 1] = {level, host, since, text} end
  end
  return out
end
