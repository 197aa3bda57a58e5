-- Judges a request for a lease in one step: granted, queued, or refused as the victim of the deadlock it would close.
-- ARGV: now, resource, owner, mode, capacity, class of the priority, lease in ms, 1 to queue, process. Answers granted with
-- fence and end; queued with the number ahead; busy with a holder; deadlock with the cycle; or capacity with an owner and
-- the number of permits it knows.
local name, owner, mode, capacity = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local class, ends, process = tonumber(ARGV[6]), now + tonumber(ARGV[7]), ARGV[9]

-- Cleans up after a few of those whose time is over, wherever that was.
for _, ended in ipairs(redis.call('ZRANGEBYSCORE', P .. ':resources', '-inf', now, 'LIMIT', 0, 4)) do
    local there, earliest = load(ended), nil
    for _, one in ipairs(there.holders) do earliest = math.min(earliest or one.ends, one.ends) end
    for _, one in ipairs(there.waiters) do earliest = math.min(earliest or one.ends, one.ends) end
    if earliest then
        redis.call('ZADD', P .. ':resources', earliest, ended)
    else
        redis.call('ZREM', P .. ':resources', ended)
    end
end

local resource = load(name)
if mode == 'permit' then
    for _, known in ipairs({ resource.holders, resource.waiters }) do
        for _, other in ipairs(known) do
            if other.mode == 'permit' and other.capacity ~= capacity then
                return { 'capacity', other.owner, other.capacity }
            end
        end
    end
end

local function hold(fence)
    local lease = table.concat({ mode, capacity, string.format('%.0f %.0f', fence, ends), process }, ' ')
    redis.call('HSET', P .. ':holders:' .. name, owner, lease)
    ends_at(name, ends)
    return { 'granted', fence, ends }
end

for _, holder in ipairs(resource.holders) do
    if holder.owner == owner then
        if holder.mode == mode then return hold(holder.fence) end
        -- Waiting for another mode would be waiting for oneself.
        return { ARGV[8] == '1' and 'deadlock' or 'busy', owner }
    end
end

local place, known
for i, waiter in ipairs(resource.waiters) do
    if waiter.owner == owner then
        place, known = i, waiter
        waiter.mode, waiter.capacity = mode, capacity
    end
end
if not place then
    place = #resource.waiters + 1
    for i, waiter in ipairs(resource.waiters) do
        if waiter.class > class then
            place = i
            break
        end
    end
    table.insert(resource.waiters, place, { owner = owner, mode = mode, capacity = capacity })
end

local blocker, permit, permits = nil, nil, 0
local function look(other)
    if mode == 'permit' and other.mode == 'permit' then
        permit, permits = permit or other.owner, permits + 1
    elseif mode ~= 'shared' or other.mode ~= 'shared' then
        blocker = blocker or other.owner
    end
end
for _, holder in ipairs(resource.holders) do look(holder) end
for ahead = 1, place - 1 do look(resource.waiters[ahead]) end

if not blocker and (permits == 0 or permits < capacity) then
    leave(name, owner)
    -- The first fence of a resource is the time, so that fences grow even if the server has lost all it knew.
    local fence = redis.call('HINCRBY', P .. ':fences', name, 1)
    if fence == 1 then
        fence = math.max(1, now)
        redis.call('HSET', P .. ':fences', name, string.format('%.0f', fence))
    end
    return hold(fence)
end
if ARGV[8] ~= '1' then return { 'busy', blocker or permit } end

local cycle = deadlock(owner, name, resource, place)
if cycle then
    leave(name, owner)
    table.insert(cycle, 1, 'deadlock')
    return cycle
end
local since, arrival = string.format('%.0f', now), nil
if known then
    since, arrival = known.since, known.arrival
else
    arrival = redis.call('INCR', P .. ':arrival')
    local waiting = redis.call('HGET', P .. ':waiting', owner)
    redis.call('HSET', P .. ':waiting', owner, waiting and waiting .. '\n' .. name or name)
end
local request = { mode, capacity, class, since, string.format('%.0f %.0f', ends, arrival), process }
redis.call('HSET', P .. ':waiters:' .. name, owner, table.concat(request, ' '))
ends_at(name, ends)
return { 'queued', place - 1 }
