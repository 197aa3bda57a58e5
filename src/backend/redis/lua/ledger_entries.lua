-- A page of the record. ARGV: now, epoch, job (empty: all), id to start from, at most how many.
-- Answers 1 when more may be due to expire, and the entries.
local _, more = expire_due()
local job, answer = ARGV[3], { more }
if job == '' then
    for _, entry in ipairs(redis.call('XRANGE', P .. ':entries', ARGV[4], '+', 'COUNT', ARGV[5])) do
        answer[#answer + 1] = entry
    end
else
    for _, place in ipairs(redis.call('XRANGE', P .. ':entries:' .. job, ARGV[4], '+', 'COUNT', ARGV[5])) do
        answer[#answer + 1] = redis.call('XRANGE', P .. ':entries', place[1], place[1])[1]
    end
end
return answer
