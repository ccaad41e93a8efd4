-- ARGV: verifier of the create that is given up, how long to bar it
-- The reply is {status, now, version, last touch} like the others', with the status only.
local key = KEYS[1]
if redis.call('EXISTS', key) == 1 and redis.call('HEXISTS', key, ARGV[1]) == 0 then
	return { 4, 0, 0, 0 }
end
redis.call('DEL', key)
redis.call('HSET', key, '@f', '0')
redis.call('PEXPIRE', key, ARGV[2])
return { 1, 0, 0, 0 }
