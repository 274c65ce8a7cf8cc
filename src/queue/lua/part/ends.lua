-- Begins what ends a claim of ours. It may be told twice, when nobody knows whether it was told:
-- then it counts once, and what came meanwhile stays as it is. So what may be refused, its place in
-- tierd:due, is written before.
if not holder and not h[7] then return 'ok' end
