--@include prelude
local stands = redis.pcall('GETRANGE', cid, 0, JOB_JSON_BYTES)
local h = redis.call('HMGET', job, 'state', 'src', 'target', 'seen', 'filename', 'rev', 'path',
  'head')
-- a JSON that no token of ours set, and that was not counted yet
local foreign = not (h[1] == 'committed' and own(h[8])) and redis.call('PTTL', cid) == -1
return {type(stands) == 'string' and stands ~= '' and stands, h[1], h[2], h[3], h[4], h[5], h[6],
  h[7], foreign and 1 or 0}
