-- Puts a mark on counters that are whole, while their lost journal is begun anew from them, and answers what they hold: of
-- each scope name, limit (empty for none), what it holds back, 1 if frozen and what is spent; of each open reservation id,
-- amount, tokens, end of its lease and the rest. ARGV: now, epoch, mark.
call('SET', P .. ':epoch', ARGV[3])
local names, held, answer = call('HKEYS', P .. ':scopes'), call('ZRANGE', P .. ':open', 0, -1), { {}, {} }
for first = 1, #held, MOST_VALUES do
    read_reservations({ unpack(held, first, math.min(#held, first + MOST_VALUES - 1)) })
    read_scopes()
end
for i, name in ipairs(names) do
    scopes_of(name)
    if i % MOST_VALUES == 0 or i == #names then read_scopes() end
end
for _, name in ipairs(names) do
    local scope = scopes[name]
    answer[1][#answer[1] + 1] = { name, scope.limit and whole(scope.limit) or '', whole(scope.hold_back),
        scope.frozen and 1 or 0, whole(scope.spent) }
end
for _, id in ipairs(held) do
    local one = reservations[id]
    if one then
        answer[2][#answer[2] + 1] = { id, whole(one.amount), whole(one.tokens), whole(one.ends), one.rest }
    end
end
return told(answer)
