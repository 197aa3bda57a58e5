-- Who can never be served. A waiter is blocked by conflicting holders and by conflicting waiters ahead of it; a permit only
-- when all permits are taken. So a deadlock is not "a cycle exists" but "nobody in it can ever be served", found by
-- assuming that everyone who does not wait will finish, and repeating until nothing changes. The search gives up after
-- a bounded number of looks, because nothing else runs meanwhile: a larger tangle is resolved by its leases.
local MAX_LOOKS = 20000

-- Everything that can be reached from the waits of `owner`, one of which is for `name`, which stands as `resource`.
local function explore(owner, name, resource)
    local graph = { resources = { [name] = resource }, waits = {}, seen_in = {}, looks = MAX_LOOKS }
    local reached, upto, frontier = { [owner] = true }, {}, { owner }
    local function meet(claimant, known_in, next_frontier)
        graph.looks = graph.looks - 1
        local other = claimant.owner
        graph.seen_in[other] = graph.seen_in[other] or {}
        table.insert(graph.seen_in[other], known_in)
        if not reached[other] then
            reached[other] = true
            next_frontier[#next_frontier + 1] = other
        end
    end
    while #frontier > 0 do
        local next_frontier = {}
        for from = 1, #frontier, 1000 do
            local upto_last = math.min(#frontier, from + 999)
            local waiting = redis.call('HMGET', P .. ':waiting', unpack(frontier, from, upto_last))
            for i = from, upto_last do
                local waiter, waits = frontier[i], {}
                for other in string.gmatch(waiting[i - from + 1] or '', '[^\n]+') do waits[#waits + 1] = other end
                if waiter == owner then
                    local is_known = false
                    for _, other in ipairs(waits) do is_known = is_known or other == name end
                    if not is_known then waits[#waits + 1] = name end
                end
                for _, other in ipairs(waits) do
                    local there = graph.resources[other] or load(other)
                    graph.resources[other] = there
                    if not there.places then
                        there.places = {}
                        for place, one in ipairs(there.waiters) do there.places[one.owner] = place end
                    end
                    local place = there.places[waiter]
                    if place then
                        graph.waits[waiter] = graph.waits[waiter] or {}
                        table.insert(graph.waits[waiter], other)
                        if not upto[other] then
                            upto[other] = 0
                            for _, holder in ipairs(there.holders) do meet(holder, other, next_frontier) end
                        end
                        for ahead = upto[other] + 1, place - 1 do meet(there.waiters[ahead], other, next_frontier) end
                        upto[other] = math.max(upto[other], place - 1)
                    end
                    if graph.looks < 0 then return nil end
                end
            end
        end
        frontier = next_frontier
    end
    return graph
end

-- Whether a claimant has to be gone before one that asks for `mode` is served; permits count together.
local function conflicts(mode, other) return not (mode == other and mode ~= 'exclusive') end

-- Takes everyone out of `stuck` who can be served at `name` once all who are not stuck have finished, and answers whether
-- somebody was. `free_at` counts at how many resources a waiter can be served.
local function serve(graph, name, stuck, free_at, dirty)
    local there = graph.resources[name]
    local count = { exclusive = 0, shared = 0, permit = 0 }
    for _, holder in ipairs(there.holders) do
        if stuck[holder.owner] then count[holder.mode] = count[holder.mode] + 1 end
    end
    for _, waiter in ipairs(there.waiters) do
        graph.looks = graph.looks - 1
        local owner, mode = waiter.owner, waiter.mode
        if stuck[owner] then
            local others = count.exclusive + count.shared + count.permit - count[mode]
            local is_free = others == 0
            if mode == 'exclusive' then is_free = is_free and count.exclusive == 0 end
            if mode == 'permit' then is_free = is_free and count.permit < waiter.capacity end
            local free = free_at[owner]
            if is_free and not free[name] then
                free[name], free.count = true, free.count + 1
                if free.count >= #graph.waits[owner] then
                    stuck[owner] = nil
                    for _, other in ipairs(graph.seen_in[owner] or {}) do dirty[#dirty + 1] = other end
                end
            end
            if stuck[owner] then count[mode] = count[mode] + 1 end
        end
    end
end

-- Owners that can never be served, whatever the others do; nil when the search was given up or `owner` is not among them.
local function stuck_with(graph, owner)
    local stuck, free_at, dirty, done = {}, {}, {}, 0
    for waiter in pairs(graph.waits) do
        stuck[waiter], free_at[waiter] = true, { count = 0 }
    end
    for name in pairs(graph.resources) do dirty[#dirty + 1] = name end
    while done < #dirty do
        done = done + 1
        serve(graph, dirty[done], stuck, free_at, dirty)
        if graph.looks < 0 or not stuck[owner] then return nil end
    end
    return stuck
end

-- Those who block a waiter: first the ones that all have to go, then the holders of permits.
local function blockers(graph, owner)
    local found = {}
    for _, name in ipairs(graph.waits[owner]) do
        local there = graph.resources[name]
        local place = there.places[owner]
        local mode, permits = there.waiters[place].mode, {}
        local function look(other)
            graph.looks = graph.looks - 1
            if mode == 'permit' and other.mode == 'permit' then
                permits[#permits + 1] = other.owner
            elseif conflicts(mode, other.mode) then
                found[#found + 1] = other.owner
            end
        end
        for _, holder in ipairs(there.holders) do look(holder) end
        for ahead = 1, place - 1 do look(there.waiters[ahead]) end
        for _, other in ipairs(permits) do found[#found + 1] = other end
    end
    return found
end

-- Extends `path` from its end at `from` until somebody is blocked by `goal`.
local function path_back(graph, from, goal, stuck, seen, path)
    local ahead = blockers(graph, from)
    for _, other in ipairs(ahead) do
        if other == goal then return true end
    end
    for _, other in ipairs(ahead) do
        if stuck[other] and not seen[other] and graph.looks > 0 then
            seen[other] = true
            path[#path + 1] = other
            if path_back(graph, other, goal, stuck, seen, path) then return true end
            path[#path] = nil
        end
    end
    return false
end

-- The usual case, found with one look: the holders wait for nothing, and those ahead for nothing else, so that all of them
-- will be served.
local function is_plain_queue(owner, name, resource, place)
    local owners, holders = { owner }, #resource.holders
    for i, holder in ipairs(resource.holders) do owners[i + 1] = holder.owner end
    for i = 1, place - 1 do owners[holders + 1 + i] = resource.waiters[i].owner end
    for from = 1, #owners, 1000 do
        local last = math.min(#owners, from + 999)
        for i, waits in ipairs(redis.call('HMGET', P .. ':waiting', unpack(owners, from, last))) do
            local at = from + i - 1
            local is_holder = at > 1 and at <= holders + 1
            if waits and (is_holder or waits ~= name) then return false end
        end
    end
    return true
end

-- The cycle that `owner` would close by waiting for `name`, itself first; nil when there is none.
local function deadlock(owner, name, resource, place)
    if is_plain_queue(owner, name, resource, place) then return nil end
    local graph = explore(owner, name, resource)
    local stuck = graph and stuck_with(graph, owner)
    if not stuck then return nil end
    local path = { owner }
    graph.looks = MAX_LOOKS
    return path_back(graph, owner, owner, stuck, {}, path) and path or nil
end
