-- Whether the claim is ours: ARGV[1] worker, ARGV[2] token. The lock may have run out unnoticed by
-- anybody; then it is taken again. What holds something else than ours was taken from us.
local h = redis.pcall('HMGET', job, 'token', 'rev', 'head', 'state', 'src', 'target',
  'worker', 'active', 'gate')
if h.err and not string.find(h.err, 'WRONGTYPE', 1, true) then return h end
if h[1] ~= ARGV[2] then return 'lost' end
local holder = redis.pcall('GET', lock)
if holder and holder ~= ARGV[1] then return 'lost' end
