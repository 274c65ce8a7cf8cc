--@arg cursor   where the scan goes on; '0': it begins
--@arg batch    how many keys to look at, about
--@place FOUND next    the cursor for the next batch; '0': that was all
--@place FOUND first   and from there on a cid and its JSON by turns
-- The keys of a batch that may be cids, and the next cursor.
local function next_batch()
  local got, cids = redis.call('SCAN', cursor, 'MATCH', '[1-9]*', 'COUNT', batch), {}
  for _, key in ipairs(got[2]) do
    if #key < JOB_CID_DIGITS and not string.find(key, '%D') then cids[#cids + 1] = key end
  end
  return cids, got[1]
end
