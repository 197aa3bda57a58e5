-- Holders and waiters, in order of service, of all resources under a prefix. ARGV: now, prefix.
-- Answers one list per lease or request: resource, owner, mode, capacity, fence (empty while waiting), end.
local prefix, answer = ARGV[2], {}
for _, name in ipairs(redis.call('ZRANGE', P .. ':resources', 0, -1)) do
    if string.sub(name, 1, #prefix) == prefix then
        local there = load(name)
        for _, one in ipairs(there.holders) do
            answer[#answer + 1] = { name, one.owner, one.mode, one.capacity, string.format('%.0f', one.fence), one.ends }
        end
        for _, one in ipairs(there.waiters) do
            answer[#answer + 1] = { name, one.owner, one.mode, one.capacity, '', one.ends }
        end
    end
end
return answer
