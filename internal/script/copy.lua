-- A copy of a session on a ring is a hash whose every cell carries a stamp, so
-- that two copies can be joined; its own records begin with '@':
--   @s:<field>   stamp of a field; alone where the field was removed
--   @a:<digest>  verifier of an ID: its stamp, and if it is retired 'r' and the verifier of the ID that is to follow
--   @r:<digest>  for which verifier this node let that one go: its vote
--   @l low water: every verifier with a lesser stamp is dead
--   @c created   @d lifetime deadline   @i idle timeout   @t last touch
--   @f format and codec
-- A tombstone is what is left of one: @f, @d and @i, without @t.
-- A reply is {status, now, token of the node's mark, greatest stamp met}; the
-- statuses are those of ring.go.
local GONE, OK, MISSING, RETIRED, HIGHER, TAKEN, AHEAD, CORRUPT, NEWER = 0, 1, 2, 3, 4, 5, 6, 7, 8

-- How far, in ms, clocks may differ.
local MARGIN = 2000

local token = redis.call('HGET', KEYS[2], 'token') or ''
local function reply(status, stamp) return { status, now, token, stamp or 0 } end

local function number(s)
	if s and #s < 17 and string.find(s, '^%d+$') then return tonumber(s) end
end

-- The stamp of a verifier, and what is to follow it if it is retired.
local function verifier(s)
	if not s then return end
	local stamp, follows = string.match(s, '^(%d+)r(.*)$')
	return number(stamp or s), follows
end

-- A vote says for which verifier this node let an ID go, and when in microseconds;
-- '!' and a verifier is one that was given back by that one, and free for others. It holds until the node is completed anew: who has forgotten anything
-- may have voted before.
local function vote(follows, at)
	return token .. ' ' .. digits(at) .. ' ' .. follows
end
local function voted(s)
	if not s then return end
	local of, at, follows = string.match(s, '^(%S*) (%d+) (.*)$')
	if of == token then return follows, tonumber(at) end
end

-- Whether a is greater than b, byte by byte: Lua's own order is the locale's.
-- nil stands for a field that was removed, which is the least.
local function greater(a, b)
	if a == b or not a then return false end
	if not b then return true end
	for i = 1, math.min(#a, #b) do
		local x, y = string.byte(a, i), string.byte(b, i)
		if x ~= y then return x > y end
	end
	return #a > #b
end

-- Whether a stamp runs ahead of this node's clock, and not only to follow one
-- that was there.
local function ahead(stamp, base)
	return math.floor(stamp / 2048) > now + MARGIN and math.floor(stamp / 2048) > math.floor(base / 2048) + 1
end

-- HSET or HDEL of a list, in chunks: unpack fails at some thousands.
local function in_chunks(command, list)
	for i = 1, #list, 1000 do
		redis.call(command, key, unpack(list, i, math.min(i + 999, #list)))
	end
end

-- A copy outlives its idle deadline by one idle timeout, since it may have
-- missed touches that others took, and the lifetime by what clocks may differ.
local function ends(t, i, d) return math.min(t + 2 * i, d + MARGIN) end
