-- A page of the record. ARGV: now, epoch, id to start from, at most how many, how many to look at, then what they have to
-- be, each empty for anything: job, agent type, model, not before, before. Answers 1 when more may be due to expire, the id
-- of the last entry that was looked at (empty when there are no more), and the entries.
local _, more = expire_due()
local wanted, looks, job, agent, model = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], ARGV[7], ARGV[8]
local since, before = tonumber(ARGV[9]), tonumber(ARGV[10])
local answer = { more, '' }

-- Fields stand in the order in which they were entered.
local function is_wanted(fields)
    local at = tonumber(fields[2])
    local of_agent, of_model = match(fields[8], '^[^\n]*\n[^\n]*\n([^\n]*)\n([^\n]*)$')
    return (agent == '' or of_agent == agent) and (model == '' or of_model == model)
        and (not since or at >= since) and (not before or at < before)
end

local list = job == '' and P .. ':entries' or P .. ':entries:' .. job
local found = call('XRANGE', list, ARGV[3], '+', 'COUNT', looks)
if #found == looks then answer[2] = found[looks][1] end
for _, entry in ipairs(found) do
    if job ~= '' then entry = call('XRANGE', P .. ':entries', entry[1], entry[1])[1] end
    if is_wanted(entry[2]) then
        answer[#answer + 1] = entry
        if #answer == wanted + 2 then
            answer[2] = entry[1]
            break
        end
    end
end
return answer
