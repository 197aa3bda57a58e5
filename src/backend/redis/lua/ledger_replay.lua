-- Does again what the journal says was done, in its order and at its times. ARGV: now, epoch, the records as JSON.
-- Limits are not asked: what was done once was within them, or was a person's decision.
local steps = {}

function steps.reserve(record)
    if call('EXISTS', P .. ':reservation:' .. record.id) == 1 then return end
    local names, seen = {}, {}
    for _, scope in ipairs(record.scopes) do
        if not seen[scope] then names[#names + 1] = scope end
        seen[scope] = true
    end
    local scopes, tokens = load_scopes(names), record.tokens or 0
    for _, scope in ipairs(scopes) do
        scope.reserved = math.min(MAX_MONEY, scope.reserved + (scope.counts_tokens and tokens or record.amount))
    end
    save_scopes(scopes)
    local about = record.job .. '\n' .. record.task .. '\n' .. record.agent .. '\n' .. record.model
    save_reservation({
        id = record.id, state = 'open', amount = record.amount, tokens = tokens, charged = 0, charged_tokens = 0,
        overrun = false, ends = record['until'],
        rest = record.instance .. '\n' .. record.instance .. '\n' .. about .. '\n' .. table.concat(names, '\n'),
    })
    call('ZADD', P .. ':open', whole(record['until']), record.id)
    enter('reserve', record.id, about, whole(record.amount))
end

function steps.void(record)
    local reservation = load_reservation(record.id)
    if not reservation or reservation.state ~= 'open' then return end
    close(reservation, 'released', 0, 0)
    -- It never was: the id may have been used for less.
    call('DEL', P .. ':reservation:' .. record.id)
end

function steps.settle(record)
    local reservation = load_reservation(record.id)
    if not reservation or reservation.state == 'settled' then return end
    local usage = record.usage
    settle(reservation, record.amount, format('%d %d %d %d %d', usage.input, usage.cache_write_5m,
        usage.cache_write_1h, usage.cache_read, usage.output))
end

function steps.release(record)
    local reservation = load_reservation(record.id)
    if reservation and reservation.state == 'open' then close(reservation, 'released', 0, 0) end
end

function steps.adjust(record)
    local adjustment = P .. ':adjustment:' .. record.request
    if call('EXISTS', adjustment) == 1 then return end
    local scope = load_scopes({ record.scope })[1]
    scope.limit = record.limit ~= cjson.null and record.limit or nil
    scope.hold_back, scope.frozen = record.hold_back, record.frozen
    save_scopes({ scope })
    local limit, spent, reserved, held, frozen = balance(scope)
    call('HSET', adjustment, 'limit', limit, 'spent', spent, 'reserved', reserved, 'hold_back', held, 'frozen', frozen)
    local job = string.match(record.scope, '^job:([^/]+)') or ''
    enter('adjust', record.request, job .. '\n\n\n', '0', '0', nil, record.note)
end

for _, record in ipairs(cjson.decode(ARGV[3])) do
    if record.at then
        now = record.at
        at = whole(now)
    end
    steps[record.step](record)
end
return 1
