-- ARGV: verifier, next verifier, change (see apply), maybe empty
-- A replay finds the next verifier in place. A late one, after yet another
-- rotation, finds neither.
local s, status = open(ARGV[2])
if s then return { OK, now, version_of(s, ARGV[3]) or s.v, s.t } end
s, status = open(ARGV[1])
if not s then return { status, now, 0, 0 } end
redis.call('HSET', key, ARGV[2], '1')
redis.call('HDEL', key, ARGV[1])
if #ARGV > 5 then apply(s, 3) else redis.call('HSET', key, '@t', digits(now)) end
expire(s)
return { OK, now, s.v, s.t }
