--@include content
local lock = KEY_LOCK .. cid
