-- The level of a field that names a spare, false of any other.
local function spare_of(field)
  return string.sub(field, 1, #FIELD_SPARE) == FIELD_SPARE and string.sub(field, #FIELD_SPARE + 1)
end
