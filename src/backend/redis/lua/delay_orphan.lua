-- Lets messages go that may wait for a process that is dead. KEYS[1] the prefix. ARGV: now, the dead process, within how many
-- ms messages are due that need not wait any longer, at most how many of them in one step.
-- Answers how many there were; as many as were allowed means that there may be more.
local P, within = KEYS[1], now + tonumber(ARGV[3])
if redis.call('HGET', P .. ':mover', 'process') == ARGV[2] then redis.call('DEL', P .. ':mover') end
local soon = redis.call('ZRANGEBYSCORE', P .. ':due', string.format('(%.0f', now), string.format('%.0f', within), 'LIMIT', 0, ARGV[4])
for _, id in ipairs(soon) do redis.call('ZADD', P .. ':due', now, id) end
return #soon
