-- KEYS: session, the node's mark
-- ARGV: @f, @d, @i
-- A tombstone wins over everything, and lives as long as any copy can. It is
-- made by taking away, which a server whose memory is full lets happen.
local d, i = tonumber(ARGV[2]), tonumber(ARGV[3])
local rest = {}
for _, name in ipairs(redis.call('HKEYS', key)) do
	if name ~= '@f' and name ~= '@d' and name ~= '@i' then rest[#rest + 1] = name end
end
in_chunks('HDEL', rest)
local own = redis.call('HMGET', key, '@f', '@d', '@i')
if string.sub(own[1] or '', 1, 2) ~= '1:' or not number(own[2]) or not number(own[3]) then
	redis.call('HSET', key, '@f', ARGV[1], '@d', ARGV[2], '@i', ARGV[3])
end
local last = math.min(now + 2 * i + MARGIN, d + MARGIN)
redis.call('PEXPIREAT', key, digits(math.max(last, redis.call('PEXPIRETIME', key))))
return reply(OK)
