-- Changes a scope once per request. ARGV: now, epoch, request, scope, what (limit, top-up, hold-back, freeze, thaw), amount
-- (empty: no limit), note, job of the scope, 1 when nothing may be spent in it without a limit. Answers the
-- number of its entry and the balance, or 0 and a limit that cannot be held.
begin()
local request, what, amount = ARGV[3], ARGV[5], tonumber(ARGV[6])
local recorded = call('HMGET', P .. ':adjustment:' .. request, 'limit', 'spent', 'reserved', 'hold_back', 'frozen',
    'entry')
if recorded[2] then
    write_down()
    return told({ recorded[6] or newest, recorded[1] or '', recorded[2], recorded[3], recorded[4], recorded[5] })
end
local scope = scope_of(ARGV[4])
local limit = scope.limit
if what == 'limit' then
    limit = amount
elseif what == 'top-up' and (limit or ARGV[9] == '1') then
    -- Raising no limit leaves none; a scope that may spend nothing without one starts from there.
    limit = (limit or 0) + amount
elseif what == 'hold-back' then
    scope.hold_back = amount
elseif what == 'freeze' or what == 'thaw' then
    scope.frozen = what == 'freeze'
end
if limit and limit > MAX_MONEY then
    write_down()
    return told({ 0, whole(limit) })
end
scope.limit = limit
changed[scope.name] = scope
enter('adjust', request, ARGV[8] .. '\n\n\n', 0, 0, nil, ARGV[7])
local became = { balance(scope) }
write_down()
write_adjustment(request, became)
call('HSET', P .. ':adjustment:' .. request, 'entry', whole(newest))
return told({ newest, unpack(became) })
