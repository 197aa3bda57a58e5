-- Every script starts with this. ARGV[1] is the present moment in milliseconds when a test moves the clock, and empty in
-- production: then the server's own clock counts, the one that all processes agree on.
local now = tonumber(ARGV[1])
if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
end
