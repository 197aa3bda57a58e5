-- Charges what a call cost. ARGV: now, epoch, id, amount, the five counts of its usage as one string.
-- Answers 1, the charge and 1 for an overrun; or 0 for an unknown id.
expire_due()
local reservation = current(ARGV[3])
if not reservation then return { 0 } end
if reservation.state ~= 'settled' then settle(reservation, tonumber(ARGV[4]), ARGV[5]) end
return { 1, whole(reservation.charged), reservation.overrun and 1 or 0 }
