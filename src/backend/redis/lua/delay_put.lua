-- Puts messages away until they are due. KEYS[1] the prefix. ARGV: now, then id, delay in ms, deliveries, queue and body of
-- each. An id that is there already stays as it is.
local P = KEYS[1]
for i = 2, #ARGV, 5 do
    local id, queue = ARGV[i], ARGV[i + 3]
    local message = ARGV[i + 2] .. ' ' .. queue .. ' ' .. ARGV[i + 4]
    if redis.call('HSETNX', P .. ':messages', id, message) == 1 then
        redis.call('ZADD', P .. ':due', now + tonumber(ARGV[i + 1]), id)
        redis.call('HINCRBY', P .. ':waiting', queue, 1)
    end
end
return 0
