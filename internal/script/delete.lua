-- ARGV: verifier
-- The reply is {status, now, version, last touch} like the others', with the status only.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return { 0, 0, 0, 0 } end
redis.call('DEL', KEYS[1])
return { 1, 0, 0, 0 }
