-- KEYS: session, the node's mark
-- ARGV: verifier, what ('save', 'touch', 'retire' or 'release'), when the last load asked, stamp, greatest stamp
-- known; of a rotation the next verifier, and for how many microseconds its client has known that the ID is valid; of
-- a save {field, '1' or '' if removed, value} ...
-- A write that needs a live session and a valid ID. A node that knows neither
-- says MISSING: its copy is behind, or the ID is dead. The stamp of RETIRED is 0 if
-- there is no vote, else 1, and 2 more if it is for a greater verifier, and 4 more if
-- the ID may have been let go here before that client knew it.
local what, asked, stamp = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local ballot = '@r:' .. string.sub(ARGV[1], 4)
local r = redis.call('HMGET', key, '@f', '@t', '@i', '@d', ARGV[1], ballot)
if not r[1] then return reply(MISSING) end
if not r[2] then return reply(GONE) end
if string.sub(r[1], 1, 2) ~= '1:' then return reply(NEWER) end
local t, i, d = number(r[2]), number(r[3]), number(r[4])
local valid, retired = verifier(r[5])
local follows, at = voted(r[6])
if not (t and i and d) then return reply(CORRUPT) end
if what == 'release' then
	if follows == ARGV[6] then redis.call('HSET', key, ballot, vote('!' .. ARGV[6], at)) end
	return reply(OK)
end

-- What a rotation adds must be newer than everything there.
local function newest()
	local most, flat = 0, redis.call('HGETALL', key)
	for n = 1, #flat, 2 do
		local kind = string.sub(flat[n], 1, 3)
		if kind == '@s:' or kind == '@a:' then most = math.max(most, verifier(flat[n + 1]) or 0) end
	end
	return most
end

if what == 'retire' and retired and follows then
	local earlier = micros - at > tonumber(ARGV[7])
	if follows == ARGV[6] then return reply(OK, newest()) end -- a repeat
	local free = string.sub(follows, 1, 1) == '!' and follows ~= '!' .. ARGV[6]
	if free and not earlier then
		redis.call('HSET', key, ballot, vote(ARGV[6], at))
		return reply(OK, newest())
	end
	return reply(RETIRED, 1 + (greater(follows, ARGV[6]) and 2 or 0) + (earlier and 4 or 0))
end
if retired then return reply(RETIRED) end
if not valid or now >= math.min(t + i, d) then return reply(MISSING) end

local set, remove = {}, {}
if what == 'retire' then
	-- The stamp stays: an ID's is always the same, so that the next one's, which is
	-- greater, does away with it everywhere.
	set = { ARGV[1], digits(valid) .. 'r' .. ARGV[6], ballot, vote(ARGV[6], micros) }
else
	if what == 'save' and ahead(stamp, tonumber(ARGV[5])) then return reply(AHEAD) end
	local highest = 0
	for n = 7, #ARGV, 3 do
		local name, value = ARGV[n], ARGV[n + 2]
		if ARGV[n + 1] == '' then value = nil end
		local cell = redis.call('HMGET', key, '@s:' .. name, name)
		local had, mine = number(cell[1]) or 0, cell[2] or nil
		if had > stamp or had == stamp and greater(mine, value) then highest = math.max(highest, had) end
		set[#set + 1] = '@s:' .. name
		set[#set + 1] = ARGV[4]
		if value then
			set[#set + 1] = name
			set[#set + 1] = value
		elseif mine then
			remove[#remove + 1] = name
		end
	end
	if highest > 0 then return reply(HIGHER, highest) end
end
local touched = math.max(t, math.min(asked, now + MARGIN))
set[#set + 1] = '@t'
set[#set + 1] = digits(touched)
in_chunks('HSET', set)
in_chunks('HDEL', remove)
redis.call('PEXPIREAT', key, digits(ends(touched, i, d)))
return reply(OK, what == 'retire' and newest() or 0)
