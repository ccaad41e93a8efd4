-- A session is a hash; its own records begin with '@':
--   @a:<digest>  verifier of an ID that is valid now
--   @v version   @c created   @d lifetime deadline   @i idle timeout
--   @t last touch   @f format and codec   @w the ids of the last 8 saves
-- A reply is {status, now, version, last touch}, the session's own of these as it
-- is after the call; the statuses are those of script.go.
local GONE, OK, CONFLICT, STALE, TAKEN, CORRUPT, NEWER = 0, 1, 2, 3, 4, 5, 6

-- A record that is a number: tonumber takes nan, inf and hexadecimal too.
local function number(s)
	if s and #s < 17 and string.find(s, '^%d+$') then return tonumber(s) end
end

-- The session's records, if it is alive and the verifier is one of its own;
-- else a status. Normally the key's TTL has ended an expired session before.
local function open(verifier)
	local r = redis.call('HMGET', key, verifier, '@v', '@d', '@i', '@t', '@w', '@f')
	if not r[1] then return nil, GONE end
	if string.sub(r[7] or '', 1, 2) ~= '1:' then return nil, NEWER end
	local s = { v = number(r[2]), d = number(r[3]), i = number(r[4]), t = number(r[5]), w = r[6] or '' }
	if not (s.v and s.d and s.i and s.t) then return nil, CORRUPT end
	if now >= math.min(s.t + s.i, s.d) then return nil, GONE end
	return s
end

-- Restarts the idle timeout, whose start is stored by the caller, never past the
-- deadline of the lifetime.
local function expire(s)
	s.t = now
	redis.call('PEXPIREAT', key, digits(math.min(now + s.i, s.d)))
end

