local function has_spare(job)
  for _, field in ipairs(redis.call('HKEYS', job)) do
    if string.sub(field, 1, #FIELD_SPARE) == FIELD_SPARE then return true end
  end
  return false
end
