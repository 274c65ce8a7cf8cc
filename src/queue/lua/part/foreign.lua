-- foreign(key, want) notes that the key of a content is not of the type that it should be.
-- Needs watch. Bounded: who writes thousands of them is told of the first.
local function foreign(key, want)
  if (watch('HLEN', 'tierd:foreign') or 64) < 64 then
    watch('HSET', 'tierd:foreign', key, want)
  end
end
