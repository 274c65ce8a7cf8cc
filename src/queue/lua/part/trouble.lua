--@include note
local function trouble(what, sentence)
  note(what, 'error', sentence)
  watch('XADD', KEY_ERRORS, 'MAXLEN', '~', ERRORS_KEPT, '*', 'cid', cid, 'what', what,
    'error', sentence)
end
