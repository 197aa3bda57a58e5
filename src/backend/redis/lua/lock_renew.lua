-- Extends a lease. ARGV: now, resource, owner, fence, lease in ms. Answers its end, or 0 when it is not held so.
local name, owner = ARGV[2], ARGV[3]
local held = redis.call('HGET', P .. ':holders:' .. name, owner)
if not held then return 0 end
local mode, fence, ends, process = string.match(held, '^(%S+ %d+) (%d+) (%d+) (.*)$')
if fence ~= ARGV[4] or tonumber(ends) <= now then return 0 end
ends = now + tonumber(ARGV[5])
redis.call('HSET', P .. ':holders:' .. name, owner,
    table.concat({ mode, fence, string.format('%.0f', ends), process }, ' '))
ends_at(name, ends)
return ends
