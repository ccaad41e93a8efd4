-- The script's key, and the time in milliseconds of this server's clock.
local key = KEYS[1]
local clock = redis.call('TIME')
local micros = clock[1] * 1000000 + clock[2]
local now = math.floor(micros / 1000)

-- Numbers are written with all their digits: tostring gives 14.
local function digits(n) return string.format('%.0f', n) end

