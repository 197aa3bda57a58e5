-- Turns overdue reservations into spending. ARGV: now, epoch. Answers 1 when more may be due, and the ids.
local due, more = begin()
write_down()
table.insert(due, 1, more)
return told(due)
