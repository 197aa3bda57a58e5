-- Does again what the journal says was done, in its order and at its times. ARGV: now, epoch, the records as JSON.
-- Limits are not asked: what was done once was within them, or was a person's decision.
local steps, records, ids, removed, adjusted, latest = {}, cjson.decode(ARGV[3]), {}, {}, {}, {}

function steps.reserve(record)
    if reservations[record.id] then return end
    local names, seen = {}, {}
    for _, scope in ipairs(record.scopes) do
        if not seen[scope] then names[#names + 1] = scope end
        seen[scope] = true
    end
    local listed = table.concat(names, '\n')
    local about = record.job .. '\n' .. record.task .. '\n' .. record.agent .. '\n' .. record.model
    local list = scopes_of(listed)
    read_scopes()
    open(record.id, record.amount, record.tokens or 0, record['until'],
        record.instance .. '\n' .. record.instance .. '\n' .. about .. '\n' .. listed, about, list)
end

function steps.void(record)
    local reservation = reservations[record.id]
    if not reservation or reservation.state ~= 'open' then return end
    close(reservation, 'released', 0, 0)
    -- It never was: the id may have been used for less.
    reservations[record.id], kept[record.id] = false, nil
    removed[#removed + 1] = P .. ':reservation:' .. record.id
end

function steps.settle(record)
    local reservation = reservations[record.id]
    if not reservation or reservation.state == 'settled' then return end
    local usage = record.usage
    settle(reservation, record.amount, format('%d %d %d %d %d', usage.input, usage.cache_write_5m,
        usage.cache_write_1h, usage.cache_read, usage.output))
end

function steps.release(record)
    -- Overdue by then, it had been charged already.
    local reservation = current(record.id)
    if reservation and reservation.state == 'open' then close(reservation, 'released', 0, 0) end
end

function steps.adjust(record)
    if adjusted[record.request] or call('EXISTS', P .. ':adjustment:' .. record.request) == 1 then return end
    local scope = scope_of(record.scope)
    -- Two processes write down what they changed in any order; the last change is the one with the highest number.
    local last = latest[record.scope] or tonumber(call('HGET', P .. ':latest', record.scope) or '0')
    if not record.entry or record.entry >= last then
        scope.limit = record.limit ~= cjson.null and record.limit or nil
        scope.hold_back, scope.frozen = record.hold_back, record.frozen
        changed[scope.name] = scope
        latest[record.scope] = record.entry or 0
    end
    local became = { balance(scope) }
    -- What was answered then; what was overdue is not expired here.
    if record.spent then
        became = { record.limit ~= cjson.null and whole(record.limit) or '', whole(record.spent), whole(record.reserved),
            whole(record.hold_back), record.frozen and '1' or '0' }
    end
    adjusted[record.request] = became
    local job = match(record.scope, '^job:([^/]+)') or ''
    enter('adjust', record.request, job .. '\n\n\n', 0, 0, nil, record.note)
end

-- What a scope had when the journal was begun anew. Its calls are entered as one.
function steps.carry(record)
    local scope = scope_of(record.scope)
    if scope.rules == scope then
        scope.limit = record.limit ~= cjson.null and record.limit or nil
        scope.hold_back, scope.frozen = record.hold_back, record.frozen
    end
    scope.spent = record.spent
    changed[scope.name] = scope
    latest[record.scope] = record.entry
    if record.charged > 0 then
        local about = record.job .. '\n\n' .. record.agent .. '\n'
        enter('settle', 'carried:' .. record.scope, about, 0, record.charged, nil, 'all calls before the journal was lost')
    end
end

for _, record in ipairs(records) do ids[#ids + 1] = record.id end
read_reservations(ids)
read_scopes()
for _, record in ipairs(records) do
    if record.at then
        now = record.at
        at = whole(now)
    end
    steps[record.step](record)
end
-- Before the rest is written: what was void and is reserved again stands there anew.
send('DEL', nil, removed)
write_down()
for request, became in pairs(adjusted) do write_adjustment(request, became) end
for scope, entry in pairs(latest) do call('HSET', P .. ':latest', scope, whole(entry)) end
return told(1)
