-- Applies all writes of a commit, or none.
-- KEYS[1] the prefix. ARGV: now, writer, the commit's own token, number of conditions, then key and expectation of each,
-- number of writes, then key, expectation, + or - and value of each. An expectation is * (anything), - (no value) or a
-- version. Answers 1 and the new versions, or 0, the place of what failed (conditions first) and its version.
local P = KEYS[1]
local KEPT_VERSIONS, KEPT_CHANGES = 100, 20000
local writer, token = ARGV[2], ARGV[3]
local at = string.format('%.0f', now)

local function fails(expected, version, living)
    if expected == '*' then return false end
    if expected == '-' then return living end
    return version ~= tonumber(expected)
end

local first, conditions = 5, tonumber(ARGV[4])
local failed
for i = 1, conditions do
    local place = first + (i - 1) * 2
    local found = redis.call('HMGET', P .. ':key:' .. ARGV[place], 'version', 'living')
    local version, living = tonumber(found[1]) or 0, found[2] == '1'
    if fails(ARGV[place + 1], version, living) then
        failed = { 0, i, living and version or 0 }
        break
    end
end

first = first + conditions * 2
local count = tonumber(ARGV[first])
local before = {}
for i = 1, count do
    local place = first + 1 + (i - 1) * 4
    local key = ARGV[place]
    local found = redis.call('HMGET', P .. ':key:' .. key, 'version', 'living', 'at', 'writer', 'commit', 'value')
    local version, living = tonumber(found[1]) or 0, found[2] == '1'
    before[i] = { key = key, version = version, living = living, found = found, place = place }
    if not failed and fails(ARGV[place + 1], version, living) then
        failed = { 0, conditions + i, living and version or 0 }
    end
end

-- The version that this very commit gave a key when it ran before and its answer was lost.
local function recorded(one)
    if one.found[5] == token then return one.version end
    for _, past in ipairs(redis.call('LRANGE', P .. ':history:' .. one.key, 0, 20)) do
        local version, commit = string.match(past, '^(%d+) %S+ %S+ (%S+) ')
        if commit == token then return tonumber(version) end
    end
end

if failed or (count > 0 and before[1].found[5] == token) then
    local versions = { 1 }
    for i = 1, count do
        local version = recorded(before[i])
        if not version then break end
        versions[i + 1] = version
    end
    if count > 0 and #versions == count + 1 then return versions end
    if failed then return failed end
end
if count == 0 then return { 1 } end

local revision = redis.call('INCRBY', P .. ':revision', count) - count
local versions, keys = { 1 }, {}
for i, one in ipairs(before) do
    local key, found, version = one.key, one.found, one.version + 1
    local name = P .. ':key:' .. key
    if one.version > 0 then
        local past = { found[1], found[3], found[4], found[5], one.living and '+' or '-', found[6] or '' }
        redis.call('LPUSH', P .. ':history:' .. key, table.concat(past, ' '))
        if version > KEPT_VERSIONS then redis.call('LTRIM', P .. ':history:' .. key, 0, KEPT_VERSIONS - 2) end
    end
    local number = string.format('%.0f', revision + i)
    local id = number .. '-0'
    if ARGV[one.place + 2] == '+' then
        local value = ARGV[one.place + 3]
        redis.call('HSET', name, 'version', version, 'living', 1, 'at', at, 'writer', writer, 'commit', token,
            'revision', number, 'value', value)
        if not one.living then redis.call('ZADD', P .. ':keys', 0, key) end
        redis.call('XADD', P .. ':feed', 'MAXLEN', '~', KEPT_CHANGES, id, 'key', key, 'version', version, 'at', at,
            'writer', writer, 'value', value)
    else
        redis.call('HSET', name, 'version', version, 'living', 0, 'at', at, 'writer', writer, 'commit', token,
            'revision', number)
        if one.living then
            redis.call('HDEL', name, 'value')
            redis.call('ZREM', P .. ':keys', key)
        end
        redis.call('XADD', P .. ':feed', 'MAXLEN', '~', KEPT_CHANGES, id, 'key', key, 'version', version, 'at', at,
            'writer', writer)
    end
    versions[i + 1], keys[i] = version, key
end
redis.call('PUBLISH', P .. ':changed', table.concat(keys, '\n'))
return versions
