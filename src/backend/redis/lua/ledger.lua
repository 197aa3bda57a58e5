-- What the ledger's scripts share. KEYS[1] is the prefix, ARGV[2] the epoch that the caller has seen: a server that holds
-- another one, or none, has lost its data, and nothing may be counted from zero.
-- Amounts are whole micro-dollars, in token scopes tokens, in doubles: exact up to 2^53, and written without exponents.
-- Numbers are turned into strings here, because the server does that more slowly. What belongs together is one string,
-- because most of a script's time goes into the number of values that pass between Lua and the server.
local P, call, format, match = KEYS[1], redis.call, string.format, string.match
local MAX_MONEY, EXPIRED_PER_CALL = 9007199254740992, 64

local epoch = call('GET', P .. ':epoch')
if epoch ~= ARGV[2] then return redis.error_reply('DATALOST ' .. (epoch or 'none')) end

local function whole(amount) return format('%d', amount) end
local at = whole(now)

local function read_scope(name, text)
    local limit, hold_back, frozen, spent, reserved = match(text or '- 0 0 0 0', '^(%S+) (%d+) (%d) (%d+) (%d+)$')
    return {
        name = name, limit = tonumber(limit), hold_back = tonumber(hold_back), frozen = frozen == '1',
        spent = tonumber(spent), reserved = tonumber(reserved), counts_tokens = name == 'tokens' or match(name, '/tokens$') ~= nil,
    }
end

-- Scopes in one go, because a call falls into half a dozen. A window, `account/day:2026-11-21`, has counters of its own and
-- the rules of its policy, `account/day`.
local function load_scopes(names)
    local scopes, of, all = {}, {}, names
    for i, name in ipairs(names) do
        local policy = match(name, '^(account/%a+):')
        if policy then
            if all == names then all = { unpack(names) } end
            all[#all + 1] = policy
            of[i] = #all
        end
    end
    local found = call('HMGET', P .. ':scopes', unpack(all))
    for i, name in ipairs(names) do
        local scope = read_scope(name, found[i])
        if of[i] then
            local policy = read_scope(name, found[of[i]])
            scope.is_window, scope.limit, scope.hold_back, scope.frozen = true, policy.limit, policy.hold_back, policy.frozen
        end
        scopes[i] = scope
    end
    return scopes
end

local function save_scopes(scopes)
    local fields = {}
    for i, scope in ipairs(scopes) do
        local rules = '- 0 0'
        if not scope.is_window then
            rules = (scope.limit and whole(scope.limit) or '-') .. ' ' .. whole(scope.hold_back)
                .. (scope.frozen and ' 1' or ' 0')
        end
        fields[2 * i - 1] = scope.name
        fields[2 * i] = rules .. ' ' .. whole(scope.spent) .. ' ' .. whole(scope.reserved)
    end
    call('HSET', P .. ':scopes', unpack(fields))
end

local function balance(scope)
    return scope.limit and whole(scope.limit) or '', whole(scope.spent), whole(scope.reserved),
        whole(scope.hold_back), scope.frozen and '1' or '0'
end

-- Adds a line to the record, and to the list of its job. about: job, task, agent type and model, a line each.
local function enter(kind, reservation, about, reserved, charged, usage, note)
    local id = whole(call('INCR', P .. ':entry')) .. '-0'
    if usage or note then
        call('XADD', P .. ':entries', id, 'at', at, 'kind', kind, 'reservation', reservation, 'about', about,
            'reserved', reserved, 'charged', charged, 'usage', usage or '', 'note', note or '')
    else
        call('XADD', P .. ':entries', id, 'at', at, 'kind', kind, 'reservation', reservation, 'about', about,
            'reserved', reserved)
    end
    local job = match(about, '^[^\n]*')
    if job ~= '' then call('XADD', P .. ':entries:' .. job, id, 'kind', kind) end
end

-- A reservation is one string: state, amount, tokens, charge, charged tokens, overrun and end of its lease, then instance,
-- process, job, task, agent type, model and its scopes, a line each.
local function save_reservation(reservation)
    call('SET', P .. ':reservation:' .. reservation.id, format('%s %d %d %d %d %d %d\n%s',
        reservation.state, reservation.amount, reservation.tokens, reservation.charged, reservation.charged_tokens,
        reservation.overrun and 1 or 0, reservation.ends, reservation.rest))
end

local function load_reservation(id)
    local found = call('GET', P .. ':reservation:' .. id)
    if not found then return nil end
    local state, amount, tokens, charged, charged_tokens, overrun, ends, rest =
        match(found, '^(%a+) (%d+) (%d+) (%d+) (%d+) (%d) (%d+)\n(.*)$')
    return {
        id = id, state = state, amount = tonumber(amount), tokens = tonumber(tokens), charged = tonumber(charged),
        charged_tokens = tonumber(charged_tokens), overrun = overrun == '1', ends = tonumber(ends), rest = rest,
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

-- Moves a reservation to another state with a charge, in all its scopes, and records it. Each scope counts money or tokens.
local function close(reservation, state, charge, tokens, usage)
    local before, names = reservation.state, {}
    local about, listed = match(reservation.rest, '^[^\n]*\n[^\n]*\n([^\n]*\n[^\n]*\n[^\n]*\n[^\n]*)\n(.*)$')
    for name in string.gmatch(listed, '[^\n]+') do names[#names + 1] = name end
    local scopes = load_scopes(names)
    local overrun = charge > reservation.amount or tokens > reservation.tokens
    for _, scope in ipairs(scopes) do
        local aside, refund, cost = reservation.amount, reservation.charged, charge
        if scope.counts_tokens then
            aside, refund, cost = reservation.tokens, reservation.charged_tokens, tokens
        end
        if before == 'released' and scope.limit and scope.spent + scope.reserved + cost > scope.limit then
            -- What was released is no longer set aside, so that even the reserved amount may lead past a limit.
            overrun = true
        end
        scope.spent = math.min(MAX_MONEY, math.max(0, scope.spent - refund) + cost)
        if before == 'open' then scope.reserved = math.max(0, scope.reserved - aside) end
    end
    if overrun then
        -- No window: tomorrow's is another one.
        for _, scope in ipairs(scopes) do scope.frozen = scope.frozen or not scope.is_window end
    end
    save_scopes(scopes)
    if before == 'open' then call('ZREM', P .. ':open', reservation.id) end
    reservation.state, reservation.charged, reservation.charged_tokens = state, charge, tokens
    reservation.overrun = overrun
    save_reservation(reservation)
    local kind, note = note_of(state, before, overrun)
    enter(kind, reservation.id, about, whole(reservation.amount), whole(charge), usage, note)
end

-- Nobody has settled it in time: charged in full.
local function expire(reservation)
    close(reservation, 'expired', reservation.amount, reservation.tokens)
end

-- Charges a call by its usage, five counts in one string. Tokens that nobody has counted are all that were reserved.
local function settle(reservation, charge, usage)
    local tokens = 0
    for count in string.gmatch(usage, '%d+') do tokens = tokens + tonumber(count) end
    if tokens == 0 or reservation.tokens == 0 then tokens = reservation.tokens end
    close(reservation, 'settled', charge, tokens, usage)
end

-- A reservation as it stands now: open and overdue counts as expired, whatever else waits to be expired.
local function current(id)
    local reservation = load_reservation(id)
    if reservation and reservation.state == 'open' and reservation.ends <= now then expire(reservation) end
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
