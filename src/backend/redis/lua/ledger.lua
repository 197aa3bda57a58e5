-- What the ledger's scripts share. KEYS[1] is the prefix, ARGV[2] the epoch that the caller has seen: a server that holds
-- another one, or none, has lost its data, and nothing may be counted from zero.
-- Amounts are whole micro-dollars in doubles, exact up to 2^53, and written without exponents.
-- Numbers are turned into strings here, because the server does that more slowly.
local P, call, format = KEYS[1], redis.call, string.format
local MAX_MONEY, EXPIRED_PER_CALL = 9007199254740992, 64

local epoch = call('GET', P .. ':epoch')
if epoch ~= ARGV[2] then return redis.error_reply('DATALOST ' .. (epoch or 'none')) end

local function whole(amount) return format('%.0f', amount) end
local at = whole(now)

local function load_scope(name)
    local found = call('HMGET', P .. ':scope:' .. name, 'limit', 'spent', 'reserved', 'hold_back', 'frozen')
    return {
        name = name,
        limit = tonumber(found[1]),
        spent = tonumber(found[2]) or 0,
        reserved = tonumber(found[3]) or 0,
        hold_back = tonumber(found[4]) or 0,
        frozen = found[5] == '1',
    }
end

-- The same counters under the limit that holds for them: a window's, `account/day:2026-11-21`, is its policy's, `account/day`.
local function effective(scope)
    local policy = string.match(scope.name, '^(account/%a+):')
    if not policy then return scope end
    local under = load_scope(policy)
    under.name, under.spent, under.reserved = scope.name, scope.spent, scope.reserved
    return under
end

local function balance(scope)
    return scope.limit and whole(scope.limit) or '', whole(scope.spent), whole(scope.reserved),
        whole(scope.hold_back), scope.frozen and '1' or '0'
end

-- Adds a line to the record, and to the list of its job. about: job, task, agent type, model; empty for none. What is zero
-- or empty is left out.
local function enter(kind, reservation, about, reserved, charged, usage, note)
    local id = whole(call('INCR', P .. ':entry')) .. '-0'
    if usage then
        call('XADD', P .. ':entries', id, 'at', at, 'kind', kind, 'reservation', reservation, 'job', about[1],
            'task', about[2], 'agent', about[3], 'model', about[4], 'reserved', reserved, 'charged', charged,
            'note', note, 'input', usage[1], 'cache_write_5m', usage[2], 'cache_write_1h', usage[3],
            'cache_read', usage[4], 'output', usage[5])
    elseif note then
        call('XADD', P .. ':entries', id, 'at', at, 'kind', kind, 'reservation', reservation, 'job', about[1],
            'task', about[2], 'agent', about[3], 'model', about[4], 'reserved', reserved, 'charged', charged,
            'note', note)
    else
        call('XADD', P .. ':entries', id, 'at', at, 'kind', kind, 'reservation', reservation, 'job', about[1],
            'task', about[2], 'agent', about[3], 'model', about[4], 'reserved', reserved)
    end
    if about[1] ~= '' then call('XADD', P .. ':entries:' .. about[1], id, 'kind', kind) end
end

local function load_reservation(id)
    local found = call('HMGET', P .. ':reservation:' .. id, 'state', 'amount', 'charged', 'overrun', 'until',
        'scopes', 'job', 'task', 'agent', 'model')
    if not found[1] then return nil end
    return {
        id = id,
        state = found[1],
        amount = tonumber(found[2]),
        charged = tonumber(found[3]) or 0,
        overrun = found[4] == '1',
        ends = tonumber(found[5]),
        scopes = found[6],
        about = { found[7], found[8], found[9], found[10] },
    }
end

local function note_of(state, before, overrun)
    if state == 'released' then return 'release', '' end
    if state == 'expired' then return 'expire', 'not settled in time: charged in full' end
    if before == 'expired' then return 'settle', 'late: replaces the charge of the expiry' end
    if before == 'released' then return 'settle', 'charged although it had been released' end
    if overrun then return 'settle', 'cost more than was reserved: scopes frozen' end
    return 'settle', ''
end

-- Moves a reservation to another state with a charge, in all its scopes, and records it.
local function close(reservation, state, charge, usage)
    local before, scopes = reservation.state, {}
    local aside = before == 'open' and reservation.amount or 0
    local overrun = charge > reservation.amount
    for name in string.gmatch(reservation.scopes, '[^\n]+') do
        local scope = load_scope(name)
        scopes[#scopes + 1] = scope
        -- What was released is no longer set aside, so that even the reserved amount may lead past a limit.
        local limit = before == 'released' and effective(scope).limit
        if limit and scope.spent + scope.reserved + charge > limit then overrun = true end
    end
    for _, scope in ipairs(scopes) do
        local reserved = math.max(0, scope.reserved - aside)
        local spent = math.min(MAX_MONEY, math.max(0, scope.spent - reservation.charged) + charge)
        local name = P .. ':scope:' .. scope.name
        -- An overrun freezes what it is charged to, but no window: tomorrow's is another one.
        if overrun and not string.find(scope.name, '^account/') then
            call('HSET', name, 'spent', whole(spent), 'reserved', whole(reserved), 'frozen', 1)
        else
            call('HSET', name, 'spent', whole(spent), 'reserved', whole(reserved))
        end
    end
    call('HSET', P .. ':reservation:' .. reservation.id, 'state', state, 'charged', whole(charge),
        'overrun', overrun and 1 or 0)
    if before == 'open' then call('ZREM', P .. ':open', reservation.id) end
    local kind, note = note_of(state, before, overrun)
    enter(kind, reservation.id, reservation.about, whole(reservation.amount), whole(charge), usage, note)
    reservation.state, reservation.charged, reservation.overrun = state, charge, overrun
end

-- A reservation as it stands now: open and overdue counts as expired, whatever else waits to be expired.
local function current(id)
    local reservation = load_reservation(id)
    if reservation and reservation.state == 'open' and reservation.ends <= now then
        close(reservation, 'expired', reservation.amount)
    end
    return reservation
end

-- Turns overdue reservations into spending, a bounded number per call: until then they count as reserved, which the
-- limits hold against in the same way. Answers their ids, and 1 when more may be due.
local function expire_due()
    local due = call('ZRANGEBYSCORE', P .. ':open', '-inf', at, 'LIMIT', 0, EXPIRED_PER_CALL)
    for _, id in ipairs(due) do
        if not current(id) then call('ZREM', P .. ':open', id) end
    end
    return due, #due == EXPIRED_PER_CALL and 1 or 0
end
