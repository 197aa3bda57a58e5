-- A page of the record. ARGV: now, epoch, id to start from, at most how many, how many to look at, then what they have to
-- be, each empty for anything: job, agent type, model, not before, before. Answers 1 when more may be due to expire, the id
-- of the last entry that was looked at (empty when there are no more), and the entries.
local _, more = begin()
write_down()
local first, wanted, looks, job, agent, model =
    tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], ARGV[7], ARGV[8]
local since, before = tonumber(ARGV[9]), tonumber(ARGV[10])
local answer, ITEMS_PER_READ = { more, '' }, 16

local function is_wanted(text)
    local time, of_agent, of_model = match(text, '^%a+ (%d+) [^\n]*\n[^\n]*\n[^\n]*\n[^\n]*\n([^\n]*)\n([^\n]*)\n')
    time = tonumber(time)
    return (agent == '' or of_agent == agent) and (model == '' or of_model == model)
        and (not since or time >= since) and (not before or time < before)
end

-- The ids of a job's entries. Those to start from may stand in the middle of an item.
local function ids_of(list)
    local ids, from = {}, call('XREVRANGE', list, whole(first) .. '-0', '-', 'COUNT', 1)[1]
    for _, item in ipairs(call('XRANGE', list, from and from[1] or '-', '+', 'COUNT', looks + 1)) do
        for id in gmatch(item[2][2], '%d+') do
            if #ids < looks and tonumber(id) >= first then ids[#ids + 1] = tonumber(id) end
        end
    end
    return ids
end

-- The item that holds an entry, and the number of its first.
local function item_of(id)
    local item = call('XREVRANGE', P .. ':entries', whole(id) .. '-0', '-', 'COUNT', 1)[1]
    return item, item and match(item[1], '^%d+') + 0
end

local found = {}
local function find(id, text) found[#found + 1] = { whole(id) .. '-0', { 'entry', text } } end

if job == '' then
    local items, from = { (item_of(first)) }, '(' .. whole(first) .. '-0'
    repeat
        for _, item in ipairs(items) do
            local id = match(item[1], '^%d+') + 0
            for i = 2, #item[2], 2 do
                if id >= first and #found < looks then find(id, item[2][i]) end
                id = id + 1
            end
            from = '(' .. item[1]
        end
        items = call('XRANGE', P .. ':entries', from, '+', 'COUNT', ITEMS_PER_READ)
    until #items == 0 or #found == looks
else
    local item, begins
    for _, id in ipairs(ids_of(P .. ':entries:' .. job)) do
        local text = item and item[2][2 * (id - begins + 1)]
        if not text then
            item, begins = item_of(id)
            text = item and item[2][2 * (id - begins + 1)]
        end
        if text then find(id, text) end
    end
end
if #found == looks then answer[2] = found[looks][1] end
for _, entry in ipairs(found) do
    if is_wanted(entry[2][2]) then
        answer[#answer + 1] = entry
        if #answer == wanted + 2 then
            answer[2] = entry[1]
            break
        end
    end
end
return told(answer)
