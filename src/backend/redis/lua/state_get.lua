-- Present values of several keys at one moment.
-- KEYS[1] the prefix. ARGV: now, then the keys. Answers one list per key, or nil for a key without a value.
local P = KEYS[1]
local values = {}
for i = 2, #ARGV do
    local found = redis.call('HMGET', P .. ':key:' .. ARGV[i], 'living', 'version', 'at', 'writer', 'value')
    values[i - 1] = found[1] == '1' and { ARGV[i], found[2], found[3], found[4], found[5] }
end
return values
