--@include watch
-- foreign(key, want) notes that the key of a content is not of the type that it should be. Bounded:
-- who writes thousands of them is told of the first.
local function foreign(key, want)
  if (watch('HLEN', KEY_FOREIGN) or FOREIGN_MOST) < FOREIGN_MOST then
    watch('HSET', KEY_FOREIGN, key, want)
  end
end
