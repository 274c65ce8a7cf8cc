-- ARGV: worker, how long it is alive
--@include reading
local began = string.match(watch('HGET', KEY_WORKERS, ARGV[1]) or '', '%d+')
watch('HSET', KEY_WORKERS, ARGV[1],
  (began or whole(now)) .. ' ' .. whole(now + ARGV[2]))
return 0
