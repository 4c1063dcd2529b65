-- A record said later stays, unless it claims to come from the future: a writer that was stopped
-- for a while must not bring back what it knew.
-- KEYS: snapshot. ARGV: said_at, now, record, TTL (all times in milliseconds).
local said_at = redis.pcall('HGET', KEYS[1], 'said_at')
if is_foreign(said_at) then
  redis.call('DEL', KEYS[1])
  said_at = false
elseif type(said_at) == 'table' then return said_at end
local kept = tonumber(said_at or '')
if kept and kept > tonumber(ARGV[1]) and kept <= tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], 'said_at', ARGV[1], 'record', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
