-- What the ledger's scripts share. KEYS[1] is the prefix, ARGV[2] the epoch that the caller has seen: a server that holds
-- another one, or none, has lost its data, and nothing may be counted from zero.
-- A script reads what it needs, works on it in memory and writes it down at its end, each kind of thing with one command:
-- it may serve many callers, who share their scopes, and its time goes into commands, into functions and what they capture,
-- into patterns, and into numbers that become strings and back. A script that fails has written nothing.
-- Amounts are whole micro-dollars, in token scopes tokens, in doubles: exact up to 2^53, and written without exponents.
local P, call, format, match, find, sub =
    KEYS[1], redis.call, string.format, string.match, string.find, string.sub

local epoch = call('GET', P .. ':epoch')
if epoch ~= ARGV[2] then return redis.error_reply('DATALOST ' .. (epoch or 'none')) end

local MAX_MONEY, at = 9007199254740992, format('%d', now)
-- By name, as they are now: scopes, lists of scopes, and reservations, of which those that are not there are false. Names of
-- scopes that are still to be read. And what has to be written: scopes, reservations and ends of leases by name, names of
-- reservations that are no longer open, and entries, each after its job.
local books = {
    scopes = {}, lists = {}, reservations = {}, unread = {}, changed = {}, kept = {}, opened = {}, closed = {}, entries = {},
}

-- A scope, whose state is there once `read` has been called. A window, `account/day:2026-11-21`, has counters of its own and
-- the rules of its policy, `account/day`.
local function scope_of(name)
    local scope = books.scopes[name]
    if not scope then
        scope = { name = name, counts_tokens = name == 'tokens' or sub(name, -7) == '/tokens' }
        books.scopes[name], books.unread[#books.unread + 1] = scope, name
        local policy = sub(name, 1, 8) == 'account/' and match(name, '^(account/%a+):')
        scope.rules = policy and scope_of(policy) or scope
    end
    return scope
end

-- A list of scopes by their names, a line each.
local function scopes_of(listed)
    local list = books.lists[listed]
    if not list then
        list = {}
        local from = 1
        repeat
            local to = find(listed, '\n', from, true)
            list[#list + 1] = scope_of(sub(listed, from, to and to - 1))
            from = to and to + 1
        until not from
        books.lists[listed] = list
    end
    return list
end

-- Reads reservations, and then all scopes that are still to be read, theirs among them.
-- A reservation is one string: state, amount, tokens, charge, charged tokens, overrun and end of its lease, then instance,
-- process, job, task, agent type, model and its scopes, a line each.
-- So is a scope: limit or -, what is held back, whether it is frozen, spent, reserved.
local function read(ids)
    local reservations, missing, keys = books.reservations, {}, {}
    for _, id in ipairs(ids) do
        if reservations[id] == nil then
            reservations[id], missing[#missing + 1], keys[#keys + 1] = false, id, P .. ':reservation:' .. id
        end
    end
    for i, found in ipairs(#keys > 0 and call('MGET', unpack(keys)) or {}) do
        if found then
            local first = find(found, '\n', 1, true)
            local state, amount, tokens, charged, charged_tokens, overrun, ends =
                match(sub(found, 1, first), '(%a+) (%d+) (%d+) (%d+) (%d+) (%d) (%d+)')
            local about = find(found, '\n', find(found, '\n', first + 1, true) + 1, true)
            local last = about
            for _ = 1, 4 do last = find(found, '\n', last + 1, true) end
            reservations[missing[i]] = {
                id = missing[i], state = state, amount = tonumber(amount), tokens = tonumber(tokens),
                charged = tonumber(charged), charged_tokens = tonumber(charged_tokens), overrun = overrun,
                ends = tonumber(ends), rest = sub(found, first + 1), about = sub(found, about + 1, last - 1),
                scopes = scopes_of(sub(found, last + 1)),
            }
        end
    end
    local unread = books.unread
    for i, found in ipairs(#unread > 0 and call('HMGET', P .. ':scopes', unpack(unread)) or {}) do
        local scope = books.scopes[unread[i]]
        local limit, hold_back, frozen, spent, reserved = match(found or '- 0 0 0 0', '(%S+) (%d+) (%d) (%d+) (%d+)')
        scope.limit, scope.hold_back, scope.frozen = tonumber(limit), tonumber(hold_back), frozen == '1'
        scope.spent, scope.reserved = tonumber(spent), tonumber(reserved)
    end
    books.unread = {}
end

-- Adds an entry to the record: kind, time, reserved, charged and the counts of its usage in one line, then a line each of
-- reservation, job, task, agent type, model and note. about: job, task, agent type and model, a line each.
local function enter(kind, reservation, about, reserved, charged, usage, note)
    local entries = books.entries
    entries[#entries + 1] = sub(about, 1, find(about, '\n', 1, true) - 1)
    entries[#entries + 1] = format('%s %s %d %d %s\n%s\n%s\n%s', kind, at, reserved, charged, usage, reservation, about, note)
end

-- Sets money and tokens aside, whatever the limits say. rest: everything but numbers, as it is written; about: its middle.
local function open(id, amount, tokens, ends, rest, about, list)
    for _, scope in ipairs(list) do
        scope.reserved = math.min(MAX_MONEY, scope.reserved + (scope.counts_tokens and tokens or amount))
        books.changed[scope.name] = scope
    end
    local reservation = {
        id = id, state = 'open', amount = amount, tokens = tokens, charged = 0, charged_tokens = 0, overrun = '0',
        ends = ends, rest = rest, about = about, scopes = list,
    }
    books.reservations[id], books.kept[id], books.opened[id] = reservation, reservation, format('%d', ends)
    enter('reserve', id, about, amount, 0, '', '')
end

-- What the record says about a reservation that has left the state `before`.
local function note_of(state, before, overrun)
    if state == 'released' then return 'release', '' end
    if state == 'expired' then return 'expire', 'not settled in time: charged in full' end
    if before == 'expired' then return 'settle', 'late: replaces the charge of the expiry' end
    if before == 'released' then return 'settle', 'charged although it had been released' end
    return 'settle', overrun and 'cost more than was reserved: scopes frozen' or ''
end

-- Moves a reservation to another state with a charge, in all its scopes, and records it. Each scope counts money or tokens.
local function close(reservation, state, charge, tokens, usage)
    local before, id = reservation.state, reservation.id
    local overrun = charge > reservation.amount or tokens > reservation.tokens
    for _, scope in ipairs(reservation.scopes) do
        local aside, refund, cost = reservation.amount, reservation.charged, charge
        if scope.counts_tokens then
            aside, refund, cost = reservation.tokens, reservation.charged_tokens, tokens
        end
        if before == 'released' and scope.rules.limit and scope.spent + scope.reserved + cost > scope.rules.limit then
            -- What was released is no longer set aside, so that even the reserved amount may lead past a limit.
            overrun = true
        end
        scope.spent = math.min(MAX_MONEY, math.max(0, scope.spent - refund) + cost)
        if before == 'open' then scope.reserved = math.max(0, scope.reserved - aside) end
        books.changed[scope.name] = scope
    end
    if overrun then
        -- No window: tomorrow's is another one.
        for _, scope in ipairs(reservation.scopes) do scope.frozen = scope.frozen or scope.rules == scope end
    end
    if before == 'open' then
        if not books.opened[id] then books.closed[#books.closed + 1] = id end
        books.opened[id] = nil
    end
    reservation.state, reservation.charged, reservation.charged_tokens = state, charge, tokens
    reservation.overrun, books.kept[id] = overrun and '1' or '0', reservation
    local kind, note = note_of(state, before, overrun)
    enter(kind, id, reservation.about, reservation.amount, charge, usage, note)
end

-- Charges a call by its usage, five counts in one string. Tokens that nobody has counted are all that were reserved.
local function settle(reservation, charge, usage)
    local tokens = 0
    if reservation.tokens > 0 then
        for count in string.gmatch(usage, '%d+') do tokens = tokens + tonumber(count) end
        if tokens == 0 then tokens = reservation.tokens end
    end
    close(reservation, 'settled', charge, tokens, usage)
end

-- A reservation, which has been read, as it stands now: open and overdue counts as expired, charged in full because nobody
-- has settled it in time, whatever else waits to be expired.
local function current(id)
    local reservation = books.reservations[id]
    if reservation and reservation.state == 'open' and reservation.ends <= now then
        close(reservation, 'expired', reservation.amount, reservation.tokens, '')
    end
    return reservation
end

-- Reads reservations, those that are overdue, and the scopes that all of them or their callers need, and turns what is
-- overdue into spending, a bounded number per script: until then it counts as reserved, which the limits hold against in the
-- same way. Answers the ids of what was overdue, and 1 when more may be.
local function begin(ids)
    local due = call('ZRANGEBYSCORE', P .. ':open', '-inf', at, 'LIMIT', '0', '64')
    for _, id in ipairs(due) do ids[#ids + 1] = id end
    read(ids)
    for _, id in ipairs(due) do
        if not current(id) then books.closed[#books.closed + 1] = id end
    end
    return due, #due == 64 and 1 or 0
end

-- Writes everything down that has changed. What is closed comes first: removing is what a server with full memory lets
-- through, and then the rest as well, so that calls can always be settled.
-- The record is a stream with an item per entry, and one per job whose items name ids of entries, ascending throughout.
local function write_down()
    local values, entries = {}, books.entries
    if #books.closed > 0 then call('ZREM', P .. ':open', unpack(books.closed)) end
    for name, scope in pairs(books.changed) do
        local is_window = scope.rules ~= scope
        values[#values + 1] = name
        values[#values + 1] = format('%s %d %d %d %d', not is_window and scope.limit and format('%d', scope.limit) or '-',
            is_window and 0 or scope.hold_back, not is_window and scope.frozen and 1 or 0, scope.spent, scope.reserved)
    end
    if #values > 0 then call('HSET', P .. ':scopes', unpack(values)) end
    values = {}
    for id, reservation in pairs(books.kept) do
        values[#values + 1] = P .. ':reservation:' .. id
        values[#values + 1] = format('%s %d %d %d %d %s %d\n%s', reservation.state, reservation.amount,
            reservation.tokens, reservation.charged, reservation.charged_tokens, reservation.overrun, reservation.ends,
            reservation.rest)
    end
    if #values > 0 then call('MSET', unpack(values)) end
    values = {}
    for id, ends in pairs(books.opened) do
        values[#values + 1] = ends
        values[#values + 1] = id
    end
    if #values > 0 then call('ZADD', P .. ':open', unpack(values)) end
    if #entries == 0 then return end
    local jobs, number = {}, call('INCRBY', P .. ':entry', #entries / 2) - #entries / 2
    for i = 1, #entries, 2 do
        number = number + 1
        local job, id = entries[i], format('%d', number)
        call('XADD', P .. ':entries', id .. '-0', 'entry', entries[i + 1])
        if job ~= '' then jobs[job] = jobs[job] and jobs[job] .. ' ' .. id or id end
    end
    for job, ids in pairs(jobs) do
        call('XADD', P .. ':entries:' .. job, match(ids, '%d+') .. '-0', 'entries', ids)
    end
end
