-- What the ledger's scripts share. KEYS[1] is the prefix, ARGV[2] the epoch and the newest entry that the caller has seen: a
-- server that holds another epoch, or none, or fewer entries has lost data, and nothing may be counted from there. Every
-- answer is `told`, with the number of the newest entry.
-- A script reads what it needs, works on it in memory and writes it down at its end, each kind of thing with one command:
-- it may serve many callers, who share their scopes, and its time goes into commands and into the values that pass between
-- Lua and the server. So what belongs together is one string, too. A script that fails has written nothing.
-- Amounts are whole micro-dollars, in token scopes tokens, in doubles: exact up to 2^53, and written without exponents.
-- Numbers are turned into strings here, because the server does that more slowly.
local P, call, format, match, gmatch, sub = KEYS[1], redis.call, string.format, string.match, string.gmatch, string.sub
local MAX_MONEY, EXPIRED_PER_CALL, MOST_VALUES, ENTRIES_PER_ITEM = 9007199254740992, 64, 1000, 64

local known, seen = match(ARGV[2], '^(.*) (%d+)$')
local epoch, newest = unpack(call('MGET', P .. ':epoch', P .. ':entry'))
newest = tonumber(newest or '0')
if epoch == known and newest < tonumber(seen) then
    -- Nobody may go on with these, also who has seen less.
    epoch = format('rolled back from %s to %d: %s', seen, newest, known)
    call('SET', P .. ':epoch', epoch)
end
if epoch ~= known then return redis.error_reply('DATALOST ' .. (epoch or 'none')) end

local function told(answer) return { newest, answer } end

-- Each number is turned into a string once; a script has few different ones.
local digits = { [0] = '0' }
local function whole(amount)
    local text = digits[amount]
    if not text then
        text = format('%d', amount)
        digits[amount] = text
    end
    return text
end
local at = whole(now)

-- Scopes and reservations by name, as they are now; reservations that are not there are false. Lists of scopes by the
-- string that names them, a name per line.
local scopes, reservations, lists = {}, {}, {}
-- Names of what has to be read, and what has to be written.
local unread, changed, kept, opened, closed, entries = {}, {}, {}, {}, {}, {}

-- A scope that is read by the next `read_scopes`. A window, `account/day:2026-11-21`, has counters of its own and the rules
-- of its policy, `account/day`.
local function want(name)
    local policy = match(name, '^(account/%a+):')
    -- All its fields from the start: a table that grows costs more.
    local scope = {
        name = name, counts_tokens = name == 'tokens' or sub(name, -7) == '/tokens', rules = false, limit = false,
        hold_back = 0, frozen = false, spent = 0, reserved = 0,
    }
    scopes[name], unread[#unread + 1] = scope, name
    scope.rules = policy and (scopes[policy] or want(policy)) or scope
    return scope
end

-- Splits a list of scopes whose state is read by the next `read_scopes`.
local function scopes_of(listed)
    local list = lists[listed]
    if list then return list end
    list = {}
    for name in gmatch(listed, '[^\n]+') do list[#list + 1] = scopes[name] or want(name) end
    lists[listed] = list
    return list
end

local function read_scopes()
    if #unread == 0 then return end
    local found = call('HMGET', P .. ':scopes', unpack(unread))
    for i, name in ipairs(unread) do
        local scope = scopes[name]
        if found[i] then
            local limit, hold_back, frozen, spent, reserved = match(found[i], '^(%S+) (%d+) (%d) (%d+) (%d+)$')
            scope.limit, scope.hold_back, scope.frozen = limit ~= '-' and limit + 0, hold_back + 0, frozen == '1'
            scope.spent, scope.reserved = spent + 0, reserved + 0
        end
    end
    unread = {}
end

-- What can be held of an amount.
local function held(amount) return amount < 0 and 0 or amount > MAX_MONEY and MAX_MONEY or amount end

-- A reservation is one string: state, amount, tokens, charge, charged tokens, overrun and end of its lease, then instance,
-- process, job, task, agent type, model and its scopes, a line each.
local function read_reservations(ids)
    local missing, keys = {}, {}
    for _, id in ipairs(ids) do
        if reservations[id] == nil then
            reservations[id] = false
            missing[#missing + 1], keys[#keys + 1] = id, P .. ':reservation:' .. id
        end
    end
    if #keys == 0 then return end
    for i, found in ipairs(call('MGET', unpack(keys))) do
        if found then
            local state, amount, tokens, charged, charged_tokens, overrun, ends, rest =
                match(found, '^(%a+) (%d+) (%d+) (%d+) (%d+) (%d) (%d+)\n(.*)$')
            local about, listed = match(rest, '^[^\n]*\n[^\n]*\n([^\n]*\n[^\n]*\n[^\n]*\n[^\n]*)\n(.*)$')
            reservations[missing[i]] = {
                id = missing[i], state = state, amount = amount + 0, tokens = tokens + 0, charged = charged + 0,
                charged_tokens = charged_tokens + 0, overrun = overrun == '1', ends = ends + 0, rest = rest,
                about = about, scopes = scopes_of(listed),
            }
        end
    end
end

-- Adds an entry to the record: kind, time, reserved, charged and the counts of its usage in one line, then a line each of
-- reservation, job, task, agent type, model and note. about: job, task, agent type and model, a line each.
local function enter(kind, reservation, about, reserved, charged, usage, note)
    entries[#entries + 1] = about
    entries[#entries + 1] = kind .. ' ' .. at .. ' ' .. whole(reserved) .. ' ' .. whole(charged) .. ' ' .. (usage or '')
        .. '\n' .. reservation .. '\n' .. about .. '\n' .. (note or '')
end

-- Sets money and tokens aside, whatever the limits say. rest: everything but numbers, as it is written; about: its middle.
local function open(id, amount, tokens, ends, rest, about, list)
    for _, scope in ipairs(list) do
        scope.reserved = held(scope.reserved + (scope.counts_tokens and tokens or amount))
        changed[scope.name] = scope
    end
    local reservation = {
        id = id, state = 'open', amount = amount, tokens = tokens, charged = 0, charged_tokens = 0, overrun = false,
        ends = ends, rest = rest, about = about, scopes = list,
    }
    reservations[id], kept[id], opened[id] = reservation, reservation, whole(ends)
    enter('reserve', id, about, amount, 0)
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
    local before = reservation.state
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
        scope.spent = held(held(scope.spent - refund) + cost)
        if before == 'open' then scope.reserved = held(scope.reserved - aside) end
        changed[scope.name] = scope
    end
    if overrun then
        -- No window: tomorrow's is another one.
        for _, scope in ipairs(reservation.scopes) do scope.frozen = scope.frozen or scope.rules == scope end
    end
    if before == 'open' then
        if not opened[reservation.id] then closed[#closed + 1] = reservation.id end
        opened[reservation.id] = nil
    end
    reservation.state, reservation.charged, reservation.charged_tokens = state, charge, tokens
    reservation.overrun = overrun
    kept[reservation.id] = reservation
    local kind, note = note_of(state, before, overrun)
    enter(kind, reservation.id, reservation.about, reservation.amount, charge, usage, note)
end

-- Nobody has settled it in time: charged in full.
local function expire(reservation)
    close(reservation, 'expired', reservation.amount, reservation.tokens)
end

-- Charges a call by its usage, five counts in one string. Tokens that nobody has counted are all that were reserved.
local function settle(reservation, charge, usage)
    local tokens = 0
    if reservation.tokens > 0 then
        for count in gmatch(usage, '%d+') do tokens = tokens + tonumber(count) end
        if tokens == 0 then tokens = reservation.tokens end
    end
    close(reservation, 'settled', charge, tokens, usage)
end

-- A reservation as it stands now: open and overdue counts as expired, whatever else waits to be expired. It has been read.
local function current(id)
    local reservation = reservations[id]
    if reservation and reservation.state == 'open' and reservation.ends <= now then expire(reservation) end
    return reservation
end

-- Reads reservations, also those that are overdue, and the scopes that all of them or their callers need, and turns what
-- is overdue into spending, a bounded number per call: until then it counts as reserved, which the limits hold against in
-- the same way. Answers the ids of what was overdue, and 1 when more may be.
local function begin(ids)
    local due = call('ZRANGEBYSCORE', P .. ':open', '-inf', at, 'LIMIT', 0, EXPIRED_PER_CALL)
    if #due > 0 then read_reservations(due) end
    if ids then read_reservations(ids) end
    read_scopes()
    for _, id in ipairs(due) do
        if not current(id) then closed[#closed + 1] = id end
    end
    return due, #due == EXPIRED_PER_CALL and 1 or 0
end

-- A command with many values, as many at a time as Lua can pass on.
local function send(command, key, values)
    for first = 1, #values, MOST_VALUES do
        local last = math.min(#values, first + MOST_VALUES - 1)
        if key then
            call(command, key, unpack(values, first, last))
        else
            call(command, unpack(values, first, last))
        end
    end
end

-- The record: a stream whose items hold entries that were written together, the first of which gives an item its id, and
-- one per job whose items name ids of entries; ascending throughout.
local function write_entries()
    newest = call('INCRBY', P .. ':entry', #entries / 2)
    local jobs, id, item, values = {}, newest - #entries / 2, nil, nil
    for i = 1, #entries, 2 do
        id = id + 1
        if not item then item, values = whole(id) .. '-0', {} end
        values[#values + 1], values[#values + 2] = 'entry', entries[i + 1]
        if #values == 2 * ENTRIES_PER_ITEM or i + 2 > #entries then
            call('XADD', P .. ':entries', item, unpack(values))
            item = nil
        end
        local job = match(entries[i], '^[^\n]+')
        if job then
            local ids = jobs[job] or {}
            jobs[job], ids[#ids + 1] = ids, whole(id)
        end
    end
    for job, ids in pairs(jobs) do
        call('XADD', P .. ':entries:' .. job, ids[1] .. '-0', 'entries', table.concat(ids, ' '))
    end
end

-- Writes everything down that has changed. What is closed comes first: removing is what a server with full memory lets
-- through, and then the rest as well, so that calls can always be settled.
local function write_down()
    send('ZREM', P .. ':open', closed)
    local values = {}
    for name, scope in pairs(changed) do
        local rules = '- 0 0'
        if scope.rules == scope then
            rules = (scope.limit and whole(scope.limit) or '-') .. ' ' .. whole(scope.hold_back)
                .. (scope.frozen and ' 1' or ' 0')
        end
        values[#values + 1] = name
        values[#values + 1] = format('%s %d %d', rules, scope.spent, scope.reserved)
    end
    send('HSET', P .. ':scopes', values)
    values = {}
    for id, reservation in pairs(kept) do
        values[#values + 1] = P .. ':reservation:' .. id
        values[#values + 1] = reservation.state .. ' ' .. whole(reservation.amount) .. ' ' .. whole(reservation.tokens)
            .. ' ' .. whole(reservation.charged) .. ' ' .. whole(reservation.charged_tokens)
            .. (reservation.overrun and ' 1 ' or ' 0 ') .. whole(reservation.ends) .. '\n' .. reservation.rest
    end
    send('MSET', nil, values)
    values = {}
    for id, ends in pairs(opened) do
        values[#values + 1] = ends
        values[#values + 1] = id
    end
    send('ZADD', P .. ':open', values)
    if #entries > 0 then write_entries() end
end
