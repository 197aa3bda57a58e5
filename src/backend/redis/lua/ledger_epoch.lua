-- The epoch of the ledger's data; written once, at the first use.
-- KEYS[1] the prefix. ARGV: now, the epoch to write if there is none.
redis.call('SET', KEYS[1] .. ':epoch', ARGV[2], 'NX')
return redis.call('GET', KEYS[1] .. ':epoch')
