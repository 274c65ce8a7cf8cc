--@include lease
--@include lock
-- Whether the claim is ours. The lock may have run out unnoticed by anybody; then it is taken
-- again. What holds something else than ours was taken from us.
--
-- From here on `known` is what is known of the job, and `holder` who has the lock, or false.
local got = redis.pcall('HMGET', job, FIELD_TOKEN, FIELD_REV, FIELD_HEAD, FIELD_STATE, FIELD_SRC,
  FIELD_TARGET, FIELD_WORKER, FIELD_ACTIVE, FIELD_GATE)
if got.err and not string.find(got.err, 'WRONGTYPE', 1, true) then return got end
local known = {}
known.token, known.rev, known.head, known.state, known.src,
  known.target, known.worker, known.active, known.gate = unpack(got)
if known.token ~= token then return SAID_LOST end
local holder = redis.pcall('GET', lock)
if holder and holder ~= worker then return SAID_LOST end
