-- And its target has not changed: ARGV[3] revision. Another program may have replaced the JSON.
if h[2] ~= ARGV[3] or redis.pcall('GETRANGE', cid, 0, #h[3] - 1) ~= h[3] then
  return 'changed'
end
