-- A number as Redis is to keep it: whole, and never with an exponent.
local function whole(n) return string.format('%.0f', n) end
