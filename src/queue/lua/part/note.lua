--@include content
--@include now
--@include watch
--@include whole
-- note(what, name, value...) tells people what happens to the content. It goes among the events of
-- all contents, and among the last of this one, which stay for a week behind the newest: done-ttl
-- is of states, and may be for ever. A foreign key in their place is let alone, and no error of
-- theirs stops what happens.
local function note(what, ...)
  watch('XADD', KEY_EVENTS, 'MAXLEN', '~', EVENTS_KEPT, '*', 'cid', cid, 'what', what, ...)
  local log = KEY_LOG .. cid
  local n = watch('LPUSH', log, table.concat({whole(now), what, ...}, '\0'))
  if n then
    watch('PEXPIRE', log, WEEK_MS)
    if n > LOG_KEPT then watch('RPOP', log) end
  end
end
