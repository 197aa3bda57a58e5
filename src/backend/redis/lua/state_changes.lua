-- Changes under a prefix after a revision. Looks at a bounded number of changes; the caller goes on from there.
-- KEYS[1] the prefix of the store. ARGV: now, prefix of the keys, id to start from, at most how many, how many to look at.
-- Answers the newest revision, the oldest one that is kept, the last one looked at, and the entries found.
local P, prefix, wanted, looks = KEYS[1], ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
local newest = redis.call('GET', P .. ':revision') or '0'
local oldest = redis.call('XRANGE', P .. ':feed', '-', '+', 'COUNT', 1)[1]
local entries = redis.call('XRANGE', P .. ':feed', ARGV[3], '+', 'COUNT', looks)
local answer = { newest, oldest and oldest[1] or '', #entries < looks and newest or entries[#entries][1] }
for _, entry in ipairs(entries) do
    if string.sub(entry[2][2], 1, #prefix) == prefix then
        answer[#answer + 1] = entry
        if #answer == wanted + 3 then
            answer[3] = entry[1]
            break
        end
    end
end
return answer
