-- Does again what the journal says was done, in its order and at its times. ARGV: now, epoch, the records as JSON.
-- Limits are not asked: what was done once was within them, or was a person's decision.
local steps, records, ids, removed, adjusted = {}, cjson.decode(ARGV[3]), {}, {}, {}

-- The scopes of a reservation, each once, a line each.
local function names_of(record)
    local names, seen = {}, {}
    for _, scope in ipairs(record.scopes) do
        if not seen[scope] then names[#names + 1] = scope end
        seen[scope] = true
    end
    return table.concat(names, '\n')
end

function steps.reserve(record)
    if books.reservations[record.id] then return end
    local listed = names_of(record)
    local about = record.job .. '\n' .. record.task .. '\n' .. record.agent .. '\n' .. record.model
    open(record.id, record.amount, record.tokens or 0, record['until'],
        record.instance .. '\n' .. record.instance .. '\n' .. about .. '\n' .. listed, about, scopes_of(listed))
end

function steps.void(record)
    local reservation = books.reservations[record.id]
    if not reservation or reservation.state ~= 'open' then return end
    close(reservation, 'released', 0, 0, '')
    -- It never was: the id may have been used for less.
    books.reservations[record.id], books.kept[record.id] = false, nil
    removed[#removed + 1] = P .. ':reservation:' .. record.id
end

function steps.settle(record)
    local reservation = books.reservations[record.id]
    if not reservation or reservation.state == 'settled' then return end
    local usage = record.usage
    settle(reservation, record.amount, format('%d %d %d %d %d', usage.input, usage.cache_write_5m,
        usage.cache_write_1h, usage.cache_read, usage.output))
end

function steps.release(record)
    local reservation = books.reservations[record.id]
    if reservation and reservation.state == 'open' then close(reservation, 'released', 0, 0, '') end
end

function steps.adjust(record)
    if adjusted[record.request] or call('EXISTS', P .. ':adjustment:' .. record.request) == 1 then return end
    local scope = scope_of(record.scope)
    scope.limit = record.limit ~= cjson.null and record.limit or nil
    scope.hold_back, scope.frozen = record.hold_back, record.frozen
    books.changed[scope.name] = scope
    adjusted[record.request] = balance(scope)
    local job = match(record.scope, '^job:([^/]+)') or ''
    enter('adjust', record.request, job .. '\n\n\n', 0, 0, '', record.note)
end

for _, record in ipairs(records) do
    ids[#ids + 1] = record.id
    if record.scope then scope_of(record.scope) end
    if record.scopes then scopes_of(names_of(record)) end
end
read(ids)
for _, record in ipairs(records) do
    if record.at then
        now = record.at
        at = format('%d', now)
    end
    steps[record.step](record)
end
-- Before the rest is written: what was void and is reserved again stands there anew.
if #removed > 0 then call('DEL', unpack(removed)) end
write_down()
for request, became in pairs(adjusted) do write_adjustment(request, became) end
return 1
