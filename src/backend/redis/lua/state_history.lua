-- Past values of a key, newest first, each as "version at writer commit living value".
-- KEYS[1] the prefix. ARGV: now, key, at most how many (at least one).
local P, key, limit = KEYS[1], ARGV[2], tonumber(ARGV[3])
local found = redis.call('HMGET', P .. ':key:' .. key, 'version', 'at', 'writer', 'commit', 'living', 'value')
if not found[1] then return {} end
local newest = { found[1], found[2], found[3], found[4], found[5] == '1' and '+' or '-', found[6] or '' }
local past = { table.concat(newest, ' ') }
if limit > 1 then
    for _, one in ipairs(redis.call('LRANGE', P .. ':history:' .. key, 0, limit - 2)) do past[#past + 1] = one end
end
return past
