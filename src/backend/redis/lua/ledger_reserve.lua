-- Sets the worst case of a call aside, in all its scopes or in none.
-- ARGV: now, epoch, id, amount, tokens, lease in ms, 1 to use what is held back, instance and process (a line each), job,
-- task, agent type and model (a line each), then each scope, after ! when nothing may be spent in it without a limit and -
-- otherwise. Answers 1; or 2, the place of the scope that has too little and what it has; or 3 and the place of a frozen scope.
expire_due()
local id, amount, tokens, first = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), 10
if call('EXISTS', P .. ':reservation:' .. id) == 1 then return { 1 } end
local names = {}
for i = first, #ARGV do names[i - first + 1] = string.sub(ARGV[i], 2) end
local scopes = load_scopes(names)
for i, scope in ipairs(scopes) do
    if scope.frozen then return { 3, i - 1 } end
end
for i, scope in ipairs(scopes) do
    local asked = scope.counts_tokens and tokens or amount
    if scope.limit then
        local kept = ARGV[7] == '1' and 0 or scope.hold_back
        local available = math.max(0, scope.limit - scope.spent - scope.reserved - kept)
        if asked > available then return { 2, i - 1, available } end
    elseif string.sub(ARGV[first + i - 1], 1, 1) == '!' then
        return { 2, i - 1, 0 }
    end
    scope.reserved = math.min(MAX_MONEY, scope.reserved + asked)
end
save_scopes(scopes)
local ends = now + tonumber(ARGV[6])
save_reservation({
    id = id, state = 'open', amount = amount, tokens = tokens, charged = 0, charged_tokens = 0, overrun = false,
    ends = ends, rest = ARGV[8] .. '\n' .. ARGV[9] .. '\n' .. table.concat(names, '\n'),
})
call('ZADD', P .. ':open', whole(ends), id)
enter('reserve', id, ARGV[9], ARGV[4])
return { 1 }
