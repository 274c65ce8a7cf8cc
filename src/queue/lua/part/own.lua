--@include content
-- Whether what stands in the JSON's place is ours to rewrite: another program may have written a
-- new one, or something else altogether.
local function own(head)
  local stands = head and redis.pcall('GETRANGE', cid, 0, #head - 1)
  return stands and (stands == '' or stands == head)
end
