-- KEYS: session, the node's mark
-- ARGV: verifier of a session that is created or '', greatest stamp sent, @f, @c, @d, @i, @t, @l, the number of
-- verifiers, {verifier, cell} ..., {field, stamp, '1' or '' if removed, value} ...
-- Joins a copy to that of this node. The stamp of the reply is 1 if this one
-- had anything that the other lacks. Without @f it is a part of a copy, which a node
-- that has none does not take.
local created = ARGV[1]

local own, flat = {}, redis.call('HGETALL', key)
for i = 1, #flat, 2 do own[flat[i]] = flat[i + 1] end
local exists = #flat > 0
if own['@f'] and not own['@t'] then return reply(GONE) end
if created ~= '' then
	if exists and not own[created] then return reply(TAKEN) end
	if ahead(tonumber(ARGV[2]), 0) then return reply(AHEAD) end
end
if exists and string.sub(own['@f'] or '', 1, 2) ~= '1:' then return reply(NEWER) end

local part = ARGV[3] == ''
if part and not exists then return reply(MISSING) end
if part and ahead(tonumber(ARGV[8]), 0) then return reply(AHEAD) end -- the whole is taken

local newer, set, remove, met = 0, {}, {}, {}
local d, i, sent = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
if part then d, i = number(own['@d']) or 0, number(own['@i']) or 0 end
local t = math.min(sent, now + MARGIN)
if exists then
	local mine = number(own['@t'])
	if not (mine and number(own['@d']) and number(own['@i'])) then return reply(CORRUPT) end
	if mine > sent then newer = 1 end
	t = math.max(t, mine)
end
if ends(t, i, d) <= now then return reply(OK, newer) end -- over before it came
if not exists then set = { '@f', ARGV[3], '@c', ARGV[4], '@d', ARGV[5], '@i', ARGV[6] } end
if digits(t) ~= own['@t'] then
	set[#set + 1] = '@t'
	set[#set + 1] = digits(t)
end

local low, mine = tonumber(ARGV[8]), number(own['@l']) or 0
if mine > low then
	low, newer = mine, 1
elseif low > mine then
	set[#set + 1] = '@l'
	set[#set + 1] = ARGV[8]
end

local first = 10 + 2 * tonumber(ARGV[9])
for n = 10, first - 1, 2 do
	local name, cell = ARGV[n], ARGV[n + 1]
	met[name] = true
	local stamp, follows = verifier(cell)
	local had, was = verifier(own[name])
	had = had or 0
	if stamp > had or stamp == had and greater(follows, was) then
		if stamp >= low then
			-- Who has the ID as valid, or had no copy, has not voted, and takes over
			-- the vote of the rotation of which it learns.
			if follows and (not exists or own[name] and not was) then
				set[#set + 1] = '@r:' .. string.sub(name, 4)
				set[#set + 1] = vote(follows, micros)
			end
			own[name] = cell
			set[#set + 1] = name
			set[#set + 1] = cell
		end
	elseif stamp < had or greater(was, follows) then
		newer = 1
	end
end
for n = first, #ARGV, 4 do
	local name, stamp, value = ARGV[n], tonumber(ARGV[n + 1]), ARGV[n + 3]
	if ARGV[n + 2] == '' then value = nil end
	met['@s:' .. name] = true
	local had = number(own['@s:' .. name]) or 0
	if stamp > had or stamp == had and greater(value, own[name]) then
		set[#set + 1] = '@s:' .. name
		set[#set + 1] = ARGV[n + 1]
		if value then
			set[#set + 1] = name
			set[#set + 1] = value
		elseif own[name] then
			remove[#remove + 1] = name
		end
	elseif stamp < had or value ~= own[name] then
		newer = 1
	end
end
for name, cell in pairs(own) do
	local kind = string.sub(name, 1, 3)
	if kind == '@a:' and (verifier(cell) or 0) < low then
		remove[#remove + 1] = name
		remove[#remove + 1] = '@r:' .. string.sub(name, 4)
	elseif (kind == '@a:' or kind == '@s:') and not met[name] then
		newer = 1
	end
end
in_chunks('HSET', set)
in_chunks('HDEL', remove)
if #set > 0 then redis.call('PEXPIREAT', key, digits(ends(t, i, d))) end
return reply(OK, newer)
