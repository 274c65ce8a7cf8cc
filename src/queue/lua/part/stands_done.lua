--@include content
--@include says_done
local function stands_done()
  local stands = redis.pcall('GETRANGE', cid, '0', JOB_JSON_BYTES_TEXT)
  return type(stands) == 'string' and says_done(stands)
end
