-- Begins the steps of a rebuild. KEYS[1] is the prefix, ARGV[2] the mark that the counters must have, and a number that does
-- not matter here: whoever has put another mark on them, or has given them a name again, is not to be disturbed.
local P, call = KEYS[1], redis.call
local mark, found = string.match(ARGV[2], '^(.*) %d+$'), call('GET', P .. ':epoch')
if found ~= mark then return redis.error_reply('DATALOST ' .. (found or 'none')) end
