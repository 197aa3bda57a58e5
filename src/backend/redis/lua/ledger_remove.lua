-- Removes keys of counters that are made anew. ARGV: now, mark, the keys.
return call('UNLINK', unpack(ARGV, 3))
