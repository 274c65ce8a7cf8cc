-- ARGV: host, how long it is believed, use, trouble, levels that are well. Since when a trouble
-- lasts is from its first mention, or before, as the looker says.
--@include reading
for level, used, free in string.gmatch(ARGV[3], '([^\n]+)\n(%d+) (%d+)\n') do
  watch('HSET', KEY_USE, level, used .. ' ' .. free)
end
for level, age, text in string.gmatch(ARGV[4], '([^\n]+)\n(%d+) ([^\n]*)\n') do
  local field = level .. '\n' .. ARGV[1]
  local since, old = string.match(watch('HGET', KEY_TROUBLE, field) or '',
    '^%d+ (%d+) (.*)$')
  if old ~= text then since = whole(now - age) end
  watch('HSET', KEY_TROUBLE, field, whole(now + ARGV[2]) .. ' ' .. since .. ' ' .. text)
end
for level in string.gmatch(ARGV[5], '([^\n]+)\n') do
  watch('HDEL', KEY_TROUBLE, level .. '\n' .. ARGV[1])
end
return 0
