-- ARGV: verifier
local s, status = open(ARGV[1])
if not s then return { status, now, 0, 0 } end
redis.call('HSET', key, '@t', digits(now))
expire(s)
return { OK, now, s.v, s.t }
