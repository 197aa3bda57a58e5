-- Steps of callers that waited at the same time, one after the other. ARGV: now, epoch, then each step with what it needs:
-- reserve: id, amount, tokens, lease in ms, 1 to use what is held back, instance and process (a line each), job, task, agent
--   type and model (a line each), scopes (a line each), and of each scope ! when nothing may be spent in it without a limit
--   and - otherwise. Sets the worst case of a call aside, in all its scopes or in none. Answers 1; or 2, the place of the
--   scope that has too little and what it has; or 3 and the place of a frozen scope.
-- settle: id, amount, the five counts of its usage as one string. Answers the charge and 1 for an overrun; or nothing for an
--   unknown id.
-- release: id. Gives the money of an open reservation back. Answers 1 if it is given back, by this step or an earlier one.
local VALUES = { reserve = 10, settle = 4, release = 2 }
local steps, answers = {}, {}

function steps.reserve(id, amount, tokens, lease, may_use_held_back, owner, about, listed, needs_limit)
    if reservations[id] then return { 1 } end
    amount, tokens = amount + 0, tokens + 0
    local list = scopes_of(listed)
    for i, scope in ipairs(list) do
        if scope.rules.frozen then return { 3, i - 1 } end
    end
    for i, scope in ipairs(list) do
        local rules, asked = scope.rules, scope.counts_tokens and tokens or amount
        if rules.limit then
            local held_back = may_use_held_back == '1' and 0 or rules.hold_back
            local available = held(rules.limit - scope.spent - scope.reserved - held_back)
            if asked > available then return { 2, i - 1, whole(available) } end
        elseif sub(needs_limit, i, i) == '!' then
            return { 2, i - 1, 0 }
        end
    end
    open(id, amount, tokens, now + lease, owner .. '\n' .. about .. '\n' .. listed, about, list)
    return { 1 }
end

function steps.settle(id, amount, usage)
    local reservation = current(id)
    if not reservation then return {} end
    if reservation.state ~= 'settled' then settle(reservation, amount + 0, usage) end
    return { whole(reservation.charged), reservation.overrun and 1 or 0 }
end

function steps.release(id)
    local reservation = current(id)
    if reservation and reservation.state == 'open' then close(reservation, 'released', 0, 0) end
    return { reservation and reservation.state == 'released' and 1 or 0 }
end

local place, ids = 3, {}
while ARGV[place] do
    ids[#ids + 1] = ARGV[place + 1]
    if ARGV[place] == 'reserve' then scopes_of(ARGV[place + 8]) end
    place = place + VALUES[ARGV[place]]
end
begin(ids)
place = 3
while ARGV[place] do
    local after = place + VALUES[ARGV[place]]
    answers[#answers + 1] = steps[ARGV[place]](unpack(ARGV, place + 1, after - 1))
    place = after
end
write_down()
return told(answers)
