-- Notes what a host has seen of the levels. Since when a trouble lasts is from its first mention,
-- or before, as the looker says. KEYS[1] is not used.
--@arg host
--@arg holds_ms   how long a trouble is believed
--@arg use        "level\nused free\n" of each level, in bytes
--@arg trouble    "level\nage sentence\n" of each that has one, for `age` ms at least
--@arg well       "level\n" of each that has none
-- Answers 0. What cannot be noted is not.
--@include now
--@include watch
--@include whole
for level, used, free in string.gmatch(use, '([^\n]+)\n(%d+) (%d+)\n') do
  watch('HSET', KEY_USE, level, used .. ' ' .. free)
end
for level, age, text in string.gmatch(trouble, '([^\n]+)\n(%d+) ([^\n]*)\n') do
  local field = level .. '\n' .. host
  local since, old = string.match(watch('HGET', KEY_TROUBLE, field) or '', '^%d+ (%d+) (.*)$')
  if old ~= text then since = whole(now - age) end
  watch('HSET', KEY_TROUBLE, field, whole(now + holds_ms) .. ' ' .. since .. ' ' .. text)
end
for level in string.gmatch(well, '([^\n]+)\n') do
  watch('HDEL', KEY_TROUBLE, level .. '\n' .. host)
end
return 0
