-- Turns those of some reservations that a dead process holds open into spending. ARGV: now, epoch, the dead process, ids.
-- Answers how many.
local dead, count = ARGV[3], 0
for i = 4, #ARGV do
    local of = call('HMGET', P .. ':reservation:' .. ARGV[i], 'instance', 'process')
    local reservation = (of[1] == dead or of[2] == dead) and current(ARGV[i])
    if reservation and reservation.state == 'open' then
        close(reservation, 'expired', reservation.amount)
        count = count + 1
    end
end
return count
