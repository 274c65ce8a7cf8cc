-- The content that a script is about.
--
-- Nothing is rolled back when a script dies half way, and any key of ours may hold somebody else's
-- text. So what a job needs is asked for, or written first of all where it is KEY_DUE; what only
-- people watch, or can be done without, goes through watch().
local cid = KEYS[1]
local job = KEY_JOB .. cid
