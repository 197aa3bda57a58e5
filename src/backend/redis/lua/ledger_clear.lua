-- Puts a mark on the counters, which keeps everybody from using them while they are made anew; whoever has put one on them
-- before is overtaken. KEYS[1] the prefix. ARGV: now, the epoch they should have, the newest entry that was seen of it, the
-- mark, 1 to refuse counters that are not lost. Answers 1, or 0 when they are not lost.
local found, entry = unpack(redis.call('MGET', KEYS[1] .. ':epoch', KEYS[1] .. ':entry'))
local is_whole = found == ARGV[2] and tonumber(entry or '0') >= tonumber(ARGV[3])
local is_seeding = found and string.find(found, '^seeding ') ~= nil
if ARGV[5] == '1' and (is_whole or is_seeding) then return 0 end
redis.call('SET', KEYS[1] .. ':epoch', ARGV[4])
return 1
