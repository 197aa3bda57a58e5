-- A scope's present state. ARGV: now, epoch, scope. Answers 1 when more may be due to expire, and the balance.
local _, more = begin()
local answer = { more, balance(scope_of(ARGV[3])) }
write_down()
return told(answer)
