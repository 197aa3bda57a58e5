-- Turns those of some reservations that a dead process holds open into spending. ARGV: now, epoch, the dead process, ids.
-- Answers how many.
local dead, ids, count = ARGV[3], { unpack(ARGV, 4) }, 0
begin(ids)
for _, id in ipairs(ids) do
    local reservation = current(id)
    if reservation and reservation.state == 'open' then
        local instance, process = match(reservation.rest, '^([^\n]*)\n([^\n]*)\n')
        if instance == dead or process == dead then
            expire(reservation)
            count = count + 1
        end
    end
end
write_down()
return told(count)
