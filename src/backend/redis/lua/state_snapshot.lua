-- All living keys under a prefix, in byte order, at one moment.
-- KEYS[1] the prefix of the store. ARGV: now, prefix of the keys. Answers the revision and one list per key.
-- Keys are UTF-8, in which no byte is 255, so that byte ends the range.
local P, prefix = KEYS[1], ARGV[2]
local answer = { redis.call('GET', P .. ':revision') or 0 }
for _, key in ipairs(redis.call('ZRANGEBYLEX', P .. ':keys', '[' .. prefix, '(' .. prefix .. '\255')) do
    local found = redis.call('HMGET', P .. ':key:' .. key, 'version', 'at', 'writer', 'value')
    answer[#answer + 1] = { key, found[1], found[2], found[3], found[4] }
end
return answer
