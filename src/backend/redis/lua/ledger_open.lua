-- Gives counters that were made anew their name. ARGV: now, mark, name, the highest number of an entry that is known to have
-- been given before. Numbers go on far above it, so that they never fall: some may have been given that nobody could tell of.
local GAP = 1000000
local entry = tonumber(call('GET', P .. ':entry') or '0')
if tonumber(ARGV[4]) > 0 then entry = math.max(entry, tonumber(ARGV[4])) + GAP end
call('DEL', P .. ':latest')
call('MSET', P .. ':entry', string.format('%d', entry), P .. ':epoch', ARGV[3])
return 1
