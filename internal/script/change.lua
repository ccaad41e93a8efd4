-- HSET or HDEL of ARGV[from..to], in chunks: unpack fails at some thousands.
local function in_chunks(command, from, to)
	for i = from, to, 1000 do
		redis.call(command, key, unpack(ARGV, i, math.min(i + 999, to)))
	end
end

-- The version that the write made, if it was done before. Every id in @w stands
-- for one version, the last for the present one.
local function version_of(s, write)
	for i = 1, #s.w, 8 do
		if string.sub(s.w, i, i + 7) == write then return s.v - (#s.w - i - 7) / 8 end
	end
end

-- Applies the change that starts at ARGV[first]: write id, base, the number of
-- arguments to set, field and value alternating, then the fields to remove.
local function apply(s, first)
	local from = first + 3
	local to = first + 2 + tonumber(ARGV[first + 2])
	s.v = s.v + 1
	redis.call('HSET', key, '@v', digits(s.v), '@w', string.sub(s.w, -56) .. ARGV[first], '@t', digits(now),
		unpack(ARGV, from, math.min(from + 999, to)))
	in_chunks('HSET', from + 1000, to)
	in_chunks('HDEL', to + 1, #ARGV)
end

