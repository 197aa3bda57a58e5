-- Ends the leases and places of a dead process on some resources. ARGV: now, the dead process, resources.
local dead = ARGV[2]

local function is_of_the_dead(owner, packed)
    return owner == dead or string.sub(owner, 1, #dead + 1) == dead .. '/'
        or string.sub(packed, -#dead - 1) == ' ' .. dead
end

for i = 3, #ARGV do
    local name = ARGV[i]
    local held = redis.call('HGETALL', P .. ':holders:' .. name)
    for j = 1, #held, 2 do
        if is_of_the_dead(held[j], held[j + 1]) then redis.call('HDEL', P .. ':holders:' .. name, held[j]) end
    end
    local waiting = redis.call('HGETALL', P .. ':waiters:' .. name)
    for j = 1, #waiting, 2 do
        if is_of_the_dead(waiting[j], waiting[j + 1]) then leave(name, waiting[j]) end
    end
    forget_if_free(name)
end
return 0
