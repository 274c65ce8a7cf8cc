--@include content
-- Writes the JSON: its head, and what changes with each step of a job. `worker` may be nil, and
-- `error_json` is one of the few that have it.
local function put(head, worker, status, error_json)
  local json = head .. (worker and '"' .. worker .. '"' or 'null') ..
    ', "status": "' .. status .. '"'
  if error_json then json = json .. ', "error": ' .. error_json end
  redis.call('SET', cid, json .. '}')
end
