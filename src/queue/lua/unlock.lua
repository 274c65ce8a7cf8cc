-- ARGV: holder
--@include prelude
if redis.pcall('GET', lock) == ARGV[1] then return redis.call('DEL', lock) end
return 0
