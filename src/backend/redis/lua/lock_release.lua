-- Gives a lease or a place in the queue back. ARGV: now, resource, owner.
redis.call('HDEL', P .. ':holders:' .. ARGV[2], ARGV[3])
leave(ARGV[2], ARGV[3])
forget_if_free(ARGV[2])
return 0
