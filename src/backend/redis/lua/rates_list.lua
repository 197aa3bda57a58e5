-- Every key in use, for people. KEYS[1] the prefix. ARGV: now.
-- Answers per key: its name, milliseconds of pause left, limit and rest of the three meters (empty where there is no limit),
-- the breaker's state (closed, open, half-open or trial), milliseconds to wait, and 1 if nothing counts against it.
local P, answer = KEYS[1], {}
for _, key in ipairs(redis.call('SMEMBERS', P .. ':keys')) do
    local stored, found = {}, redis.call('HGETALL', P .. ':bank:' .. key)
    for i = 1, #found, 2 do stored[found[i]] = found[i + 1] end
    local line = { key, string.format('%.0f', math.max(0, (tonumber(stored.paused) or 0) - now)) }
    for m = 1, 3 do
        local configured, learned = tonumber(stored['configured' .. m] or ''), tonumber(stored['learned' .. m] or '')
        local limit = configured or learned
        if limit and learned then limit = math.min(limit, learned) end
        -- Whatever was stored, what is answered is a number that can be read.
        if limit then limit = math.min(limit, 2 ^ 53) end
        local level = tonumber(stored['level' .. m] or '') or limit
        line[#line + 1] = limit and string.format('%.0f', limit) or ''
        line[#line + 1] = limit and string.format('%.0f', math.max(0, math.min(math.floor(level), 2 ^ 53))) or ''
    end
    local gate = redis.call('HMGET', P .. ':gate:' .. key, 'until', 'in_a_row', 'slices', 'trials', 'passed')
    local ends, busy, badly = tonumber(gate[1] or ''), tonumber(gate[5] or '0'), 0
    for trial_ends in string.gmatch(gate[4] or '', '%w+=(%d+)') do
        if tonumber(trial_ends) > now then busy = busy + 1 end
    end
    for failed in string.gmatch(gate[3] or '', '%d+=%d+,(%d+)') do badly = badly + tonumber(failed) end
    local state, wait = 'closed', 0
    if ends and now < ends then
        state, wait = 'open', ends - now
    elseif ends and busy == 0 then
        state = 'trial'
    elseif ends then
        state, wait = 'half-open', 1
    end
    line[#line + 1] = state
    line[#line + 1] = string.format('%.0f', wait)
    line[#line + 1] = (tonumber(gate[2] or '0') == 0 and badly == 0) and 1 or 0
    answer[#answer + 1] = line
end
return answer
