-- KEYS: session, the node's mark
-- ARGV: verifier, what ('save', 'touch' or 'retire'), when the last load asked, stamp, greatest stamp known,
-- of a rotation the next verifier, of a save {field, '1' or '' if removed, value} ...
-- A write that needs a live session and a valid ID. A node that knows neither
-- says MISSING: its copy is behind, or the ID is dead.
local what, asked, stamp = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local vote = '@r:' .. string.sub(ARGV[1], 4)
local r = redis.call('HMGET', key, '@f', '@t', '@i', '@d', ARGV[1], vote)
if not r[1] then return reply(MISSING) end
if not r[2] then return reply(GONE) end
if string.sub(r[1], 1, 2) ~= '1:' then return reply(NEWER) end
local t, i, d = number(r[2]), number(r[3]), number(r[4])
local valid, retired = verifier(r[5])
if not (t and i and d) then return reply(CORRUPT) end
if what == 'retire' and retired and r[6] == ARGV[6] then return reply(OK) end -- a repeat
if retired then return reply(RETIRED) end
if not valid or now >= math.min(t + i, d) then return reply(MISSING) end

local set, remove = {}, {}
if what ~= 'touch' and ahead(stamp, tonumber(ARGV[5])) then return reply(AHEAD) end
if what == 'retire' then
	set = { ARGV[1], ARGV[4] .. 'r' .. ARGV[6], vote, ARGV[6] }
else
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
return reply(OK)
