-- Whether a JSON says done, as any program may have written it. A name that holds these words has
-- its quotes escaped.
local function says_done(json)
  return string.find(json, '"status"%s*:%s*"done"') ~= nil
end
