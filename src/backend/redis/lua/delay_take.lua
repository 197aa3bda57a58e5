-- Takes messages that are due, for a while. KEYS[1] the prefix. ARGV: now, who moves messages, lease of the mover in ms, at
-- most how many, after how many ms they are due again, at most how many bytes (one message always fits).
-- Answers id and "deliveries queue body" of each; nothing while another process is the mover.
local P, mover, bytes = KEYS[1], ARGV[2], tonumber(ARGV[6])
local due = redis.call('ZRANGEBYSCORE', P .. ':due', '-inf', now, 'LIMIT', 0, ARGV[4])
if #due == 0 then return {} end
local found = redis.call('HMGET', P .. ':mover', 'process', 'until')
if found[1] and found[1] ~= mover and tonumber(found[2]) > now then return {} end
redis.call('HSET', P .. ':mover', 'process', mover, 'until', string.format('%.0f', now + tonumber(ARGV[3])))
local again, answer = now + tonumber(ARGV[5]), {}
for _, id in ipairs(due) do
    local message = redis.call('HGET', P .. ':messages', id)
    if message then
        bytes = bytes - #message
        if bytes < 0 and #answer > 0 then break end
        redis.call('ZADD', P .. ':due', again, id)
        answer[#answer + 1] = id
        answer[#answer + 1] = message
    else
        redis.call('ZREM', P .. ':due', id)
    end
end
return answer
