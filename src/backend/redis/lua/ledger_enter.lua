-- Enters a reservation that these books do not know as one that was released, so that settling it charges it, and freezes
-- its scopes where that leads past a limit. ARGV: now, epoch, id, amount, tokens, instance and process (a line each), job,
-- task, agent type and model (a line each), scopes (a line each).
local id, owner, about, listed = ARGV[3], ARGV[6], ARGV[7], ARGV[8]
local list = scopes_of(listed)
begin({ id })
if not reservations[id] then
    open(id, tonumber(ARGV[4]), tonumber(ARGV[5]), now, owner .. '\n' .. about .. '\n' .. listed, about, list)
    close(reservations[id], 'released', 0, 0)
end
write_down()
return told(1)
