-- note(at, what, ...) tells people, `at`
-- in ms, then names and values. It goes among the events of all contents, and among the last of
-- this one, which stay for a week behind the newest: done-ttl is of states, and may be for ever. A
-- foreign key in their place is let alone, and no error of theirs stops what happens. Needs watch
-- (job/keys).
local function note(at, what, ...)
  watch('XADD', KEY_EVENTS, 'MAXLEN', '~', EVENTS_KEPT, '*', 'cid', cid, 'what', what, ...)
  local log = KEY_LOG .. cid
  local n = watch('LPUSH', log,
    table.concat({string.format('%.0f', at), what, ...}, '\0'))
  if n then
    watch('PEXPIRE', log, WEEK_MS)
    if n > LOG_KEPT then watch('RPOP', log) end
  end
end
