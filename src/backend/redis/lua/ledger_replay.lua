-- Does again what the journal says was done, in its order and at its times. ARGV: now, epoch, the records as JSON.
-- Limits are not asked: what was done once was within them, or was a person's decision.
local function scopes_of(names)
    local all = {}
    for _, name in ipairs(names) do all[#all + 1] = load_scope(name) end
    return all
end

local steps = {}

function steps.reserve(record)
    local name = P .. ':reservation:' .. record.id
    if call('EXISTS', name) == 1 then return end
    local names, seen = {}, {}
    for _, scope in ipairs(record.scopes) do
        if not seen[scope] then names[#names + 1] = scope end
        seen[scope] = true
    end
    for _, scope in ipairs(scopes_of(names)) do
        local reserved = math.min(MAX_MONEY, scope.reserved + record.amount)
        call('HSET', P .. ':scope:' .. scope.name, 'reserved', whole(reserved))
    end
    call('HSET', name, 'state', 'open', 'amount', whole(record.amount), 'until', whole(record['until']),
        'scopes', table.concat(names, '\n'), 'instance', record.instance, 'process', record.instance, 'job', record.job,
        'task', record.task, 'agent', record.agent, 'model', record.model)
    call('ZADD', P .. ':open', whole(record['until']), record.id)
    enter('reserve', record.id, { record.job, record.task, record.agent, record.model }, whole(record.amount))
end

function steps.void(record)
    local reservation = load_reservation(record.id)
    if not reservation or reservation.state ~= 'open' then return end
    close(reservation, 'released', 0)
    -- It never was: the id may have been used for less.
    call('DEL', P .. ':reservation:' .. record.id)
end

function steps.settle(record)
    local reservation = load_reservation(record.id)
    if not reservation or reservation.state == 'settled' then return end
    local usage = record.usage
    close(reservation, 'settled', record.amount, {
        whole(usage.input), whole(usage.cache_write_5m), whole(usage.cache_write_1h), whole(usage.cache_read),
        whole(usage.output),
    })
end

function steps.release(record)
    local reservation = load_reservation(record.id)
    if reservation and reservation.state == 'open' then close(reservation, 'released', 0) end
end

function steps.adjust(record)
    local adjustment, name = P .. ':adjustment:' .. record.request, P .. ':scope:' .. record.scope
    if call('EXISTS', adjustment) == 1 then return end
    local scope = load_scope(record.scope)
    local limit = record.limit and record.limit ~= cjson.null and whole(record.limit) or ''
    local held, frozen = whole(record.hold_back), record.frozen and '1' or '0'
    call('HSET', name, 'spent', whole(scope.spent), 'reserved', whole(scope.reserved), 'hold_back', held, 'frozen', frozen)
    if limit == '' then call('HDEL', name, 'limit') else call('HSET', name, 'limit', limit) end
    call('HSET', adjustment, 'limit', limit, 'spent', whole(scope.spent), 'reserved', whole(scope.reserved),
        'hold_back', held, 'frozen', frozen)
    local job = string.match(record.scope, '^job:([^/]+)') or ''
    enter('adjust', record.request, { job, '', '', '' }, '0', '0', nil, record.note)
end

for _, record in ipairs(cjson.decode(ARGV[3])) do
    if record.at then
        now = record.at
        at = whole(now)
    end
    steps[record.step](record)
end
return 1
