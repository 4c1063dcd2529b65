-- KEYS: snapshot. ARGV: how long a record may be. Returns a number when it is longer, or none: what
-- is wrong with it.
local length = redis.pcall('HSTRLEN', KEYS[1], 'record')
if is_foreign(length) then return 1 end
if type(length) == 'table' then return length end
if length > tonumber(ARGV[1]) then return 0 end
return redis.call('HGET', KEYS[1], 'record')
