-- Whatever was put there, no more than so much of it comes over the wire.
-- KEYS: snapshot. ARGV: how many bytes to return at most.
local said_at = redis.pcall('HGET', KEYS[1], 'said_at')
if is_foreign(said_at) then return 'foreign' end
if type(said_at) ~= 'string' then return said_at end
return string.sub(said_at, 1, tonumber(ARGV[1]))
