-- The least that setting money aside and settling it could be: two counters, without limits, record or repetition.
-- KEYS: the reserved and the spent counters, each a hash. ARGV: the scope, what is added to either.
redis.call('HINCRBY', KEYS[1], ARGV[1], ARGV[2])
redis.call('HINCRBY', KEYS[2], ARGV[1], ARGV[3])
return 1
