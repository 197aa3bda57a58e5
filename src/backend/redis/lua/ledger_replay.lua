-- Does again what the journal says was done, in its order and at its times. ARGV: now, epoch, the records as JSON.
-- Limits are not asked: what was done once was within them, or was a person's decision.
local steps = {}

function steps.reserve(record)
    local name = P .. ':reservation:' .. record.id
    if call('EXISTS', name) == 1 then return end
    local names, seen = {}, {}
    for _, scope in ipairs(record.scopes) do
        if not seen[scope] then names[#names + 1] = scope end
        seen[scope] = true
    end
    write('reserved', load_scopes(names), function(scope)
        return whole(math.min(MAX_MONEY, scope.reserved + record.amount))
    end)
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
    local adjustment = P .. ':adjustment:' .. record.request
    if call('EXISTS', adjustment) == 1 then return end
    local scope = load_scopes({ record.scope })[1]
    scope.limit = record.limit ~= cjson.null and record.limit or nil
    scope.hold_back, scope.frozen = record.hold_back, record.frozen
    call('HSET', P .. ':rules', scope.name, rules(scope))
    local limit, spent, reserved, held, frozen = balance(scope)
    call('HSET', adjustment, 'limit', limit, 'spent', spent, 'reserved', reserved, 'hold_back', held, 'frozen', frozen)
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
