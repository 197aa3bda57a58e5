-- Sets the worst case of a call aside, in all its scopes or in none.
-- ARGV: now, epoch, id, amount, lease in ms, 1 to use what is held back, instance, process, job, task, agent type, model,
-- then each scope, after ! when nothing may be spent in it without a limit and - otherwise. Answers 1; or 2, the place of the scope that has too little and what it has; or 3 and the place of a
-- frozen scope.
expire_due()
local id, amount, first = ARGV[3], tonumber(ARGV[4]), 13
local name = P .. ':reservation:' .. id
if call('EXISTS', name) == 1 then return { 1 } end
local names = {}
for i = first, #ARGV do names[i - first + 1] = string.sub(ARGV[i], 2) end
local scopes = add_rules(load_scopes(names))
for i, scope in ipairs(scopes) do
    if scope.frozen then return { 3, i - 1 } end
end
for i, scope in ipairs(scopes) do
    if scope.limit then
        local kept = ARGV[6] == '1' and 0 or scope.hold_back
        local available = math.max(0, scope.limit - scope.spent - scope.reserved - kept)
        if amount > available then return { 2, i - 1, available } end
    elseif string.sub(ARGV[first + i - 1], 1, 1) == '!' then
        return { 2, i - 1, 0 }
    end
end
write('reserved', scopes, function(scope) return whole(math.min(MAX_MONEY, scope.reserved + amount)) end)
local ends = whole(now + tonumber(ARGV[5]))
call('HSET', name, 'state', 'open', 'amount', ARGV[4], 'until', ends,
    'scopes', table.concat(names, '\n'), 'instance', ARGV[7], 'process', ARGV[8], 'job', ARGV[9], 'task', ARGV[10],
    'agent', ARGV[11], 'model', ARGV[12])
call('ZADD', P .. ':open', ends, id)
enter('reserve', id, { ARGV[9], ARGV[10], ARGV[11], ARGV[12] }, ARGV[4])
return { 1 }
