-- For those scripts that read or change a single scope.

-- Its balance as it is answered: limit (empty for none), spent, reserved, held back, frozen.
local function balance(scope)
    local rules = scope.rules
    return { rules.limit and format('%d', rules.limit) or '', format('%d', scope.spent), format('%d', scope.reserved),
        format('%d', rules.hold_back), rules.frozen and '1' or '0' }
end

-- Notes the balance that a change was answered with, for whoever asks again.
local function write_adjustment(request, became)
    call('HSET', P .. ':adjustment:' .. request, 'limit', became[1], 'spent', became[2], 'reserved', became[3],
        'hold_back', became[4], 'frozen', became[5])
end
