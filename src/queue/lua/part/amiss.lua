-- A key that holds something else than ours. A command that our user may not use is told in the
-- same places, without the last: the command and the server's words.
--@place AMISS grade   GRADE_STOPS or GRADE_WATCH; in answer to a post: how that ended
--@place AMISS key
--@place AMISS is      the type that it has
--@place AMISS want    the type that it should have; 'job': a text that is a job's
local function amiss(grade, key, is, want)
  return {[AMISS_GRADE] = grade, [AMISS_KEY] = key, [AMISS_IS] = is, [AMISS_WANT] = want}
end
