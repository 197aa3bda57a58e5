-- What the ledger's scripts about single scopes share, besides `ledger.lua`.
-- One scope, read at once.
local function scope_of(name)
    local scope = scopes_of(name)[1]
    read_scopes()
    return scope
end

-- What a scope has: limit (empty for none), spent, reserved, held back, 1 if frozen.
local function balance(scope)
    local rules = scope.rules
    return rules.limit and whole(rules.limit) or '', whole(scope.spent), whole(scope.reserved), whole(rules.hold_back),
        rules.frozen and '1' or '0'
end

-- The balance that a change of a scope was answered with, for whoever asks again.
local function write_adjustment(request, became)
    local limit, spent, reserved, held_back, frozen = unpack(became)
    call('HSET', P .. ':adjustment:' .. request, 'limit', limit, 'spent', spent, 'reserved', reserved,
        'hold_back', held_back, 'frozen', frozen)
end
