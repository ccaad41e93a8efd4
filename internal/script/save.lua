-- ARGV: verifier, 'merge' or 'cas', change (see apply)
local s, status = open(ARGV[1])
if not s then return { status, now, 0, 0 } end
local done = version_of(s, ARGV[3])
if done then return { OK, now, done, s.t } end
local base = tonumber(ARGV[4])
if ARGV[2] == 'cas' and s.v ~= base then return { CONFLICT, now, s.v, s.t } end
-- More than 8 saves since it was first sent: its id, had it been done, could
-- have been pushed out of @w by now.
if s.v - base > 8 then return { STALE, now, s.v, s.t } end
apply(s, 3)
expire(s)
return { OK, now, s.v, s.t }
