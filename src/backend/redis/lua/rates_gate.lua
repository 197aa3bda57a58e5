-- One step of a key's circuit breaker, with the same rules as src/backend/rates/gate.rs. KEYS[1] the prefix. ARGV: now, key,
-- step (look, enter, renew or report), trial or empty, succeeded, failed; then the policy: failures in a row, share in percent,
-- least calls, window, open, longest open in ms, trials, lease of a trial in ms.
-- Answers the state (closed, open, half-open or trial), milliseconds to wait, and 1 if nothing counts against it.
local P, key, step, trial = KEYS[1], ARGV[2], ARGV[3], ARGV[4]
local succeeded, failed = tonumber(ARGV[5]), tonumber(ARGV[6])
local policy = {
    consecutive = tonumber(ARGV[7]),
    ratio = tonumber(ARGV[8]),
    least = tonumber(ARGV[9]),
    window = tonumber(ARGV[10]),
    open = tonumber(ARGV[11]),
    longest = tonumber(ARGV[12]),
    trials = math.max(1, tonumber(ARGV[13])),
    lease = tonumber(ARGV[14]),
}
local H = P .. ':gate:' .. key
local stored = redis.call('HMGET', H, 'until', 'opened', 'in_a_row', 'slices', 'trials', 'passed')
local gate = {
    ends = tonumber(stored[1] or ''),
    opened = tonumber(stored[2] or '0'),
    in_a_row = tonumber(stored[3] or '0'),
    slices = {},
    trials = {},
    passed = tonumber(stored[6] or '0'),
}
for slice, well, badly in string.gmatch(stored[4] or '', '(%d+)=(%d+),(%d+)') do
    gate.slices[#gate.slices + 1] = { tonumber(slice), tonumber(well), tonumber(badly) }
end
for id, ends in string.gmatch(stored[5] or '', '(%w+)=(%d+)') do
    if tonumber(ends) > now then gate.trials[#gate.trials + 1] = { id, tonumber(ends) } end
end

local function open()
    local time = math.min(policy.open * 2 ^ math.min(gate.opened, 16), math.max(policy.longest, policy.open))
    gate = { ends = now + time, opened = gate.opened + 1, in_a_row = 0, slices = {}, trials = {}, passed = 0 }
end

local function tally()
    local well, badly = 0, 0
    for _, one in ipairs(gate.slices) do
        well, badly = well + one[2], badly + one[3]
    end
    return well, badly
end

local function note()
    gate.in_a_row = succeeded > 0 and failed or gate.in_a_row + failed
    local slice = math.floor(now / math.max(1, math.floor(policy.window / 10)))
    local kept = {}
    for _, one in ipairs(gate.slices) do
        if one[1] > slice - 10 then kept[#kept + 1] = one end
    end
    gate.slices = kept
    local newest = kept[#kept]
    if newest and newest[1] >= slice then
        newest[2], newest[3] = newest[2] + succeeded, newest[3] + failed
    else
        kept[#kept + 1] = { slice, succeeded, failed }
    end
    local well, badly = tally()
    local in_a_row = policy.consecutive > 0 and gate.in_a_row >= policy.consecutive
    local enough = well + badly >= math.max(1, policy.least)
    local share = policy.ratio > 0 and badly * 100 >= policy.ratio * (well + badly)
    if failed > 0 and (in_a_row or (enough and share)) then open() end
end

local function report()
    local was_trial, rest = false, {}
    for _, one in ipairs(gate.trials) do
        if one[1] == trial then was_trial = true else rest[#rest + 1] = one end
    end
    gate.trials = rest
    if not gate.ends then
        note()
    elseif was_trial and failed > 0 then
        open()
    elseif was_trial and succeeded > 0 then
        gate.passed = gate.passed + 1
        if gate.passed >= policy.trials then
            gate = { opened = 0, in_a_row = 0, slices = {}, trials = {}, passed = 0 }
        end
    end
end

local function view()
    if not gate.ends then
        local _, badly = tally()
        return { 'closed', 0, (gate.in_a_row == 0 and badly == 0) and 1 or 0 }
    end
    if now < gate.ends then return { 'open', string.format('%.0f', gate.ends - now), 0 } end
    if gate.passed + #gate.trials < policy.trials then return { 'trial', 0, 0 } end
    local wait = policy.open
    for i, one in ipairs(gate.trials) do
        local left = one[2] - now
        wait = i == 1 and left or math.min(wait, left)
    end
    return { 'half-open', string.format('%.0f', math.max(1, math.min(wait, policy.open))), 0 }
end

local function enter()
    for _, one in ipairs(gate.trials) do
        if one[1] == trial then return { 'trial', 0, 0 } end
    end
    local answer = view()
    if answer[1] == 'trial' then gate.trials[#gate.trials + 1] = { trial, now + policy.lease } end
    return answer
end

-- Only what is still there: a trial that has ended is not set up again.
local function renew()
    for _, one in ipairs(gate.trials) do
        if one[1] == trial then one[2] = now + policy.lease end
    end
end

if step == 'look' then return view() end
local answer
if step == 'enter' then
    answer = enter()
else
    if step == 'renew' then renew() else report() end
    answer = view()
end
local slices, trials = {}, {}
for i, one in ipairs(gate.slices) do slices[i] = string.format('%.0f=%.0f,%.0f', one[1], one[2], one[3]) end
for i, one in ipairs(gate.trials) do trials[i] = string.format('%s=%.0f', one[1], one[2]) end
redis.call('HSET', H, 'until', gate.ends and string.format('%.0f', gate.ends) or '', 'opened', gate.opened,
    'in_a_row', gate.in_a_row, 'slices', table.concat(slices, ' '), 'trials', table.concat(trials, ' '),
    'passed', gate.passed)
redis.call('SADD', P .. ':keys', key)
return answer
