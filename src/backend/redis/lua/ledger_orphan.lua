-- Turns those of some reservations that a dead process holds open into spending. ARGV: now, epoch, the dead process, ids.
-- Answers how many.
local dead, count = ARGV[3], 0
for i = 4, #ARGV do
    local reservation = current(ARGV[i])
    if reservation and reservation.state == 'open' then
        local instance, process = match(reservation.rest, '^([^\n]*)\n([^\n]*)\n')
        if instance == dead or process == dead then
            expire(reservation)
            count = count + 1
        end
    end
end
return count
