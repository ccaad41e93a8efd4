-- KEYS: the node's mark; ARGV: token of a repair, 'take', 'renew' or 'release', for how long in ms
-- One repairer at a time. The reply is 1, or 0 if the lease is somebody else's.
local r = redis.call('HMGET', key, 'repair', 'lease')
local mine, taken = r[1] == ARGV[1], r[1] and now < (tonumber(r[2] or '') or 0)
if ARGV[2] == 'take' and taken and not mine or ARGV[2] ~= 'take' and not mine then return 0 end
if ARGV[2] == 'release' then
	redis.call('HDEL', key, 'repair', 'lease')
else
	redis.call('HSET', key, 'repair', ARGV[1], 'lease', digits(now + tonumber(ARGV[3])))
end
return 1
