-- Forgets messages. KEYS[1] the prefix. ARGV: now, then ids.
local P = KEYS[1]
for i = 2, #ARGV do
    local message = redis.call('HGET', P .. ':messages', ARGV[i])
    if message then
        local queue = string.match(message, '^%d+ (%S+) ')
        redis.call('HDEL', P .. ':messages', ARGV[i])
        redis.call('ZREM', P .. ':due', ARGV[i])
        if redis.call('HINCRBY', P .. ':waiting', queue, -1) <= 0 then redis.call('HDEL', P .. ':waiting', queue) end
    end
end
return 0
