-- And its target has not changed: `rev` is what the worker knows. Another program may have replaced
-- the JSON.
if known.rev ~= rev or redis.pcall('GETRANGE', cid, 0, #known.head - 1) ~= known.head then
  return SAID_CHANGED
end
