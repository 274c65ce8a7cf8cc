--@include watch
-- It did not fail any more: it begins anew, or was taken back.
local function no_failure(cid)
  watch('ZREM', KEY_DEAD, cid)
  watch('ZREM', KEY_CONFLICT, cid)
end
