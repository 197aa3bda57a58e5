-- Notes that a process was buried, or forgets it. KEYS[1] the prefix. ARGV: now, bury or forget, the process. One that has
-- shown itself alive meanwhile is left alone.
local P, process = KEYS[1], ARGV[3]
if ARGV[2] == 'forget' then return redis.call('ZREM', P .. ':dead', process) end
if redis.call('ZREM', P .. ':dying', process) == 1 then redis.call('ZADD', P .. ':dead', now, process) end
return 0
