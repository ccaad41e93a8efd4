-- KEYS: the node's mark; ARGV: the token that no longer holds
-- The node is not complete any more, for nobody.
if redis.call('HGET', key, 'token') ~= ARGV[1] then return 0 end
redis.call('HDEL', key, 'run', 'token')
return 1
