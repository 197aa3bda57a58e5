-- A scope's present state. ARGV: now, epoch, scope. Answers 1 when more may be due to expire, and the balance.
local scope = scope_of(ARGV[3])
local _, more = begin({})
write_down()
return { more, unpack(balance(scope)) }
