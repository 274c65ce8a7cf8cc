-- What stands about a content, for a commit. KEYS[1] is its cid.
--@place PEEK json       as it stands; nil: there is none, or it is no text
--@place PEEK state      of the job; nil: there is none, and none of the following
--@place PEEK src
--@place PEEK target
--@place PEEK seen
--@place PEEK filename
--@place PEEK rev
--@place PEEK path       of the target, as the move was made under
--@place PEEK foreign    1: another program wrote the JSON; a done in it was not counted yet
--@include fields
--@include own
local stands = redis.pcall('GETRANGE', cid, '0', JOB_JSON_BYTES_TEXT)
local state, src, target, seen, filename, rev, path, head = fields(FIELD_STATE, FIELD_SRC,
  FIELD_TARGET, FIELD_SEEN, FIELD_FILENAME, FIELD_REV, FIELD_PATH, FIELD_HEAD)
-- a JSON that no token of ours set, and that was not counted yet
local foreign = not (state == STATE_COMMITTED and own(head)) and redis.call('PTTL', cid) == -1
return {
  [PEEK_JSON] = type(stands) == 'string' and stands ~= '' and stands,
  [PEEK_STATE] = state, [PEEK_SRC] = src, [PEEK_TARGET] = target, [PEEK_SEEN] = seen,
  [PEEK_FILENAME] = filename, [PEEK_REV] = rev, [PEEK_PATH] = path,
  [PEEK_FOREIGN] = foreign and 1 or 0,
}
