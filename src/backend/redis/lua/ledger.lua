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

-- The rules of scopes, "limit hold_back frozen" with - for no limit, into the scopes. A window's, `account/day:2026-11-21`,
-- are its policy's, `account/day`.
local function add_rules(scopes)
    local of = {}
    for i, scope in ipairs(scopes) do
        local policy = string.match(scope.name, '^(account/%a+):')
        scope.is_window, of[i] = policy ~= nil, policy or scope.name
    end
    for i, rules in ipairs(call('HMGET', P .. ':rules', unpack(of))) do
        local limit, hold_back, frozen = string.match(rules or '- 0 0', '^(%S+) (%d+) (%d)$')
        local scope = scopes[i]
        scope.limit, scope.hold_back, scope.frozen = tonumber(limit), tonumber(hold_back), frozen == '1'
    end
    return scopes
end

-- All scopes at once, because a call falls into half a dozen.
local function load_scopes(names)
    local scopes = {}
    local spent, reserved = call('HMGET', P .. ':spent', unpack(names)), call('HMGET', P .. ':reserved', unpack(names))
    for i, name in ipairs(names) do
        scopes[i] = { name = name, spent = tonumber(spent[i]) or 0, reserved = tonumber(reserved[i]) or 0 }
    end
    return scopes
end

-- Writes what `of` makes of each scope.
local function write(counter, scopes, of)
    local fields = {}
    for i, scope in ipairs(scopes) do
        fields[2 * i - 1], fields[2 * i] = scope.name, of(scope)
    end
    call('HSET', P .. ':' .. counter, unpack(fields))
end

local function rules(scope)
    return (scope.limit and whole(scope.limit) or '-') .. ' ' .. whole(scope.hold_back) .. (scope.frozen and ' 1' or ' 0')
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
    local before, names = reservation.state, {}
    for name in string.gmatch(reservation.scopes, '[^\n]+') do names[#names + 1] = name end
    local scopes = load_scopes(names)
    local overrun = charge > reservation.amount
    if overrun or before == 'released' then
        add_rules(scopes)
        for _, scope in ipairs(scopes) do
            -- What was released is no longer set aside, so that even the reserved amount may lead past a limit.
            local committed = scope.spent + scope.reserved + charge
            if before == 'released' and scope.limit and committed > scope.limit then overrun = true end
        end
    end
    write('spent', scopes, function(scope)
        return whole(math.min(MAX_MONEY, math.max(0, scope.spent - reservation.charged) + charge))
    end)
    if before == 'open' then
        write('reserved', scopes, function(scope) return whole(math.max(0, scope.reserved - reservation.amount)) end)
    end
    if overrun then
        for _, scope in ipairs(scopes) do
            -- No window: tomorrow's is another one.
            if not scope.is_window and not scope.frozen then
                scope.frozen = true
                call('HSET', P .. ':rules', scope.name, rules(scope))
            end
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
