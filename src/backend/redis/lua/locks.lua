-- What the lock table's scripts share. KEYS[1] is the prefix. Per resource a hash of holders, "mode capacity fence until
-- process", and one of waiters, "mode capacity class since until arrival process", both by owner.
local P = KEYS[1]

-- Ends an owner's place in the queue of a resource.
local function leave(resource, owner)
    if redis.call('HDEL', P .. ':waiters:' .. resource, owner) == 0 then return end
    local rest = {}
    for other in string.gmatch(redis.call('HGET', P .. ':waiting', owner) or '', '[^\n]+') do
        if other ~= resource then rest[#rest + 1] = other end
    end
    if #rest == 0 then
        redis.call('HDEL', P .. ':waiting', owner)
    else
        redis.call('HSET', P .. ':waiting', owner, table.concat(rest, '\n'))
    end
end

local function by_fence(one, other) return one.fence < other.fence end

local function by_turn(one, other)
    if one.class ~= other.class then return one.class < other.class end
    return one.arrival < other.arrival
end

-- Holders by fence and waiters in order of service: by class, raised by one per 10,000 ms of waiting, then by arrival.
-- Ended leases and abandoned places are removed on the way.
local function load(resource)
    local holders, waiters = {}, {}
    local found = redis.call('HGETALL', P .. ':holders:' .. resource)
    for i = 1, #found, 2 do
        local mode, capacity, fence, ends = string.match(found[i + 1], '^(%S+) (%d+) (%d+) (%d+)')
        ends = tonumber(ends)
        if ends <= now then
            redis.call('HDEL', P .. ':holders:' .. resource, found[i])
        else
            holders[#holders + 1] =
                { owner = found[i], mode = mode, capacity = tonumber(capacity), fence = tonumber(fence), ends = ends }
        end
    end
    found = redis.call('HGETALL', P .. ':waiters:' .. resource)
    for i = 1, #found, 2 do
        local mode, capacity, class, since, ends, arrival =
            string.match(found[i + 1], '^(%S+) (%d+) (%d+) (%d+) (%d+) (%d+)')
        ends = tonumber(ends)
        if ends <= now then
            leave(resource, found[i])
        else
            local aged = math.max(0, tonumber(class) - math.floor((now - tonumber(since)) / 10000))
            waiters[#waiters + 1] = {
                owner = found[i],
                mode = mode,
                capacity = tonumber(capacity),
                class = aged,
                since = since,
                ends = ends,
                arrival = tonumber(arrival),
            }
        end
    end
    table.sort(holders, by_fence)
    table.sort(waiters, by_turn)
    return { holders = holders, waiters = waiters }
end

-- Notes when somebody's time on a resource ends, so that whoever comes later cleans up after them.
local function ends_at(resource, ends) redis.call('ZADD', P .. ':resources', 'LT', ends, resource) end

-- Forgets a resource on which nobody is left.
local function forget_if_free(resource)
    if redis.call('EXISTS', P .. ':holders:' .. resource, P .. ':waiters:' .. resource) == 0 then
        redis.call('ZREM', P .. ':resources', resource)
    end
end
