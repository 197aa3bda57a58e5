-- Says that a process lives, and looks for those that no longer say so. KEYS[1] the prefix. ARGV: now, the process, after
-- which silence in ms a process is dead, after how many ms in death it is forgotten.
-- A silent process moves from beats to dying, where whoever gets it here buries it; if that one dies over it, the next gets
-- it after the same silence. A process that beats is in beats alone, whatever others thought of it.
-- Answers the time, 1 if the process was not known to live, the list of those to bury and that of those to forget.
local P, process, silence = KEYS[1], ARGV[2], tonumber(ARGV[3])

-- First, because it is a write that a server with full memory lets through, and then the rest of the script as well.
redis.call('ZREM', P .. ':dying', process)

-- When nobody at all was heard, it was the server that could not hear: silence counts anew from here.
local newest = redis.call('ZREVRANGE', P .. ':beats', 0, 0, 'WITHSCORES')[2]
if newest and now - newest > silence / 2 then redis.call('SET', P .. ':deaf', string.format('%.0f', now)) end
local deaf = tonumber(redis.call('GET', P .. ':deaf')) or 0

local is_new = redis.call('ZADD', P .. ':beats', now, process)
if is_new == 1 then redis.call('ZREM', P .. ':dead', process) end
if now - deaf >= silence then
    for _, other in ipairs(redis.call('ZRANGEBYSCORE', P .. ':beats', '-inf', now - silence, 'LIMIT', 0, 16)) do
        redis.call('ZREM', P .. ':beats', other)
        redis.call('ZADD', P .. ':dying', now, other)
    end
end
local bury = redis.call('ZRANGEBYSCORE', P .. ':dying', '-inf', now, 'LIMIT', 0, 4)
for _, other in ipairs(bury) do redis.call('ZADD', P .. ':dying', now + silence, other) end
local forget = redis.call('ZRANGEBYSCORE', P .. ':dead', '-inf', now - tonumber(ARGV[4]), 'LIMIT', 0, 16)
return { now, is_new, bury, forget }
