-- KEYS: the node's mark, its record of the ring
-- ARGV: token of the repair, run id at its start, new token of the mark, evicted_keys at its start, the ring
-- The reply is 0 if this node is not the one that was repaired: it was emptied
-- in between.
if redis.call('HGET', key, 'repair') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[5]) -- before the node counts, should it fail
redis.call('HDEL', key, 'repair', 'lease')
redis.call('HSET', key, 'run', ARGV[2], 'token', ARGV[3], 'evicted', ARGV[4])
return 1
