-- Gives the money of an open reservation back. ARGV: now, epoch, id.
expire_due()
local reservation = current(ARGV[3])
if reservation and reservation.state == 'open' then close(reservation, 'released', 0, 0) end
return 0
