-- Changes a scope once per request. ARGV: now, epoch, request, scope, what (limit, top-up, hold-back, freeze, thaw), amount
-- (empty: no limit), note, job of the scope, 1 when nothing may be spent in it without a limit. Answers 1 and the balance, or 0 and a limit that cannot be held.
expire_due()
local request, what, amount = ARGV[3], ARGV[5], tonumber(ARGV[6])
local recorded = call('HMGET', P .. ':adjustment:' .. request, 'limit', 'spent', 'reserved', 'hold_back', 'frozen')
if recorded[2] then return { 1, recorded[1] or '', recorded[2], recorded[3], recorded[4], recorded[5] } end
local scope = load_scopes({ ARGV[4] })[1]
if what == 'limit' then
    scope.limit = amount
elseif what == 'top-up' and (scope.limit or ARGV[9] == '1') then
    -- Raising no limit leaves none; a scope that may spend nothing without one starts from there.
    scope.limit = (scope.limit or 0) + amount
elseif what == 'hold-back' then
    scope.hold_back = amount
elseif what == 'freeze' or what == 'thaw' then
    scope.frozen = what == 'freeze'
end
if scope.limit and scope.limit > MAX_MONEY then return { 0, whole(scope.limit) } end
local limit, spent, reserved, hold_back, frozen = balance(scope)
save_scopes({ scope })
call('HSET', P .. ':adjustment:' .. request, 'limit', limit, 'spent', spent, 'reserved', reserved,
    'hold_back', hold_back, 'frozen', frozen)
enter('adjust', request, ARGV[8] .. '\n\n\n', '0', '0', nil, ARGV[7])
return { 1, limit, spent, reserved, hold_back, frozen }
