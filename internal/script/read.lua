-- {now, field, value ...}
local clock = redis.call('TIME')
local fields = redis.call('HGETALL', KEYS[1])
local reply = { clock[1] * 1000 + math.floor(clock[2] / 1000) }
for i = 1, #fields do reply[i + 1] = fields[i] end
return reply
