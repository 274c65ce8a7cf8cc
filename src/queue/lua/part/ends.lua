-- Begins what ends a claim of ours. It may be told twice, when nobody knows whether it was told:
-- then it counts once, and what came meanwhile stays as it is. So what may be refused, its place in
-- KEY_DUE, is written before.
if not holder and not known.worker then return SAID_OK end
