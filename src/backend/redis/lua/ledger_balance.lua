-- A scope's present state. ARGV: now, epoch, scope. Answers 1 when more may be due to expire, and the balance.
local _, more = expire_due()
return { more, balance(load_scopes({ ARGV[3] })[1]) }
