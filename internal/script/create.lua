-- ARGV: verifier, format, idle, lifetime, field, value ...
-- Never overwrites: a key that exists is either a replay of this very create, or
-- somebody else's.
if redis.call('EXISTS', key) == 1 then
	local s = open(ARGV[1])
	if s then return { OK, now, s.v, s.t } end
	return { TAKEN, now, 0, 0 }
end
local s = { i = tonumber(ARGV[3]), d = now + tonumber(ARGV[4]) }
redis.call('HSET', key, ARGV[1], '1', '@v', '1', '@c', digits(now), '@d', digits(s.d), '@i', digits(s.i),
	'@t', digits(now), '@f', ARGV[2], unpack(ARGV, 5, math.min(1004, #ARGV)))
in_chunks('HSET', 1005, #ARGV)
expire(s)
return { OK, now, 1, now }
