-- Keeps everybody from using the counters while they are made anew. KEYS[1] the prefix. ARGV: now, the epoch they should
-- have, 1 to refuse counters that are not lost. Answers 1, or 0 when they are not lost.
local found = redis.call('GET', KEYS[1] .. ':epoch')
if ARGV[3] == '1' and found == ARGV[2] then return 0 end
redis.call('SET', KEYS[1] .. ':epoch', 'rebuilding ' .. ARGV[2])
return 1
