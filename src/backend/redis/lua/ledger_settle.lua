-- Charges what a call cost. ARGV: now, epoch, id, amount, then the five counts of its usage.
-- Answers 1, the charge and 1 for an overrun; or 0 for an unknown id.
expire_due()
local reservation = current(ARGV[3])
if not reservation then return { 0 } end
if reservation.state ~= 'settled' then
    close(reservation, 'settled', tonumber(ARGV[4]), { ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9] })
end
return { 1, whole(reservation.charged), reservation.overrun and 1 or 0 }
