-- One step on the meters of a key: token bucket and sliding window, with the same arithmetic as src/backend/rates/meter.rs.
-- KEYS[1] the prefix. ARGV: now, key, window in ms, burst in percent, 1 if the window slides, age of what the provider said
-- in ms, its pause in ms or empty; then for requests, input and output tokens: configured limit or empty, need, want,
-- correction, the provider's limit or empty, and what is left of it.
-- Answers granted, 1 if there is a limit, and the three amounts; or wait and milliseconds.
local P, key = KEYS[1], ARGV[2]
local window, burst, sliding, age = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == '1', tonumber(ARGV[6])
local H, width = P .. ':bank:' .. key, math.max(1, math.floor(window / 60))
local stored, found = {}, redis.call('HGETALL', H)
for i = 1, #found, 2 do stored[found[i]] = found[i + 1] end
local same_window = tonumber(stored.window) == window
local paused = tonumber(stored.paused) or 0
if ARGV[7] ~= '' then paused = math.max(paused, now + tonumber(ARGV[7])) end

local function total(slices)
    local taken = 0
    for _, one in ipairs(slices) do taken = taken + one[2] end
    return taken
end

local function count(meter, amount)
    if amount == 0 then return end
    local slice, newest = math.floor(now / width), meter.slices[#meter.slices]
    if newest and newest[1] >= slice then
        newest[2] = newest[2] + amount
    else
        meter.slices[#meter.slices + 1] = { slice, amount }
    end
    meter.level = meter.level - amount
end

-- What was taken too much leaves the newest slices first.
local function correct(meter, by)
    if by >= 0 then return count(meter, by) end
    local back = -by
    meter.level = math.min(meter.level + back, meter.capacity)
    for i = #meter.slices, 1, -1 do
        local part = math.min(back, meter.slices[i][2])
        meter.slices[i][2] = meter.slices[i][2] - part
        back = back - part
    end
end

local function wait_for(meter)
    if meter.need == 0 then return 0 end
    local missing, by_bucket, by_window = math.min(meter.need, meter.capacity) - meter.level, 0, 0
    if missing > 1e-6 then
        by_bucket = math.max(1, math.min(86400000, math.ceil(missing * window / math.max(meter.limit, 1) - 1e-6)))
    end
    if sliding then
        local amount, taken = math.min(meter.need, meter.limit), total(meter.slices)
        for _, one in ipairs(meter.slices) do
            if taken + amount <= meter.limit then break end
            taken = taken - one[2]
            if taken + amount <= meter.limit then
                by_window = math.max(1, (one[1] + 1) * width + window - now)
            end
        end
    end
    return math.max(by_bucket, by_window)
end

local meters, wait, plenty, limited, needed = {}, paused - now, true, 0, 0
for m = 1, 3 do
    local base = 2 + m * 6
    local meter = { need = tonumber(ARGV[base + 1]), want = tonumber(ARGV[base + 2]) }
    needed = needed + meter.need
    meter.configured, meter.learned = tonumber(ARGV[base]), tonumber(stored['learned' .. m])
    local said, remaining = tonumber(ARGV[base + 4]), tonumber(ARGV[base + 5])
    if said then meter.learned = math.max(1, said) end
    local limit = meter.configured or meter.learned
    if limit and meter.learned then limit = math.min(limit, meter.learned) end
    if limit then
        limited, meter.limit, meter.capacity = 1, limit, math.max(1, limit * burst / 100)
        local level, at = tonumber(stored['level' .. m]), tonumber(stored['at' .. m]) or 0
        if level then
            meter.level = math.min(level + limit * math.max(0, now - at) / window, meter.capacity)
        else
            meter.level = meter.capacity
        end
        meter.at, meter.slices = math.max(at, now), {}
        if said then meter.level = math.min(meter.level, remaining + limit * age / window) end
        if same_window then
            for slice, amount in string.gmatch(stored['slices' .. m] or '', '(%d+)=(%d+)') do
                if (slice + 1) * width + window > now then
                    meter.slices[#meter.slices + 1] = { tonumber(slice), tonumber(amount) }
                end
            end
        end
        correct(meter, tonumber(ARGV[base + 3]))
        wait = math.max(wait, wait_for(meter))
        -- An advance leaves at least half to the other processes.
        plenty = plenty and meter.level - meter.want >= meter.capacity / 2
        plenty = plenty and (not sliding or total(meter.slices) + meter.want <= math.floor(limit / 2))
    end
    meters[m] = meter
end

local answer = { 'granted', limited }
if needed > 0 and wait > 0 then
    answer = { 'wait', string.format('%.0f', wait) }
else
    for m, meter in ipairs(meters) do
        local amount = 0
        if needed > 0 then amount = plenty and meter.want or meter.need end
        if meter.limit then count(meter, amount) end
        answer[#answer + 1] = string.format('%.0f', amount)
    end
end

local fields = { 'window', string.format('%.0f', window), 'paused', string.format('%.0f', paused) }
local function keep(name, value)
    fields[#fields + 1] = name
    fields[#fields + 1] = value
end
for m, meter in ipairs(meters) do
    keep('configured' .. m, meter.configured and string.format('%.0f', meter.configured) or '')
    if meter.learned then keep('learned' .. m, string.format('%.0f', meter.learned)) end
    if meter.limit then
        local slices = {}
        for i, one in ipairs(meter.slices) do slices[i] = string.format('%.0f=%.0f', one[1], one[2]) end
        keep('level' .. m, string.format('%.17g', meter.level))
        keep('at' .. m, string.format('%.0f', meter.at))
        keep('slices' .. m, table.concat(slices, ' '))
    end
end
redis.call('HSET', H, unpack(fields))
redis.call('SADD', P .. ':keys', key)
return answer
