-- KEYS: lease. ARGV: holder, span in milliseconds, longest lease in milliseconds. A lease without an
-- end, or with one too far away, was not written by us.
local left = redis.call('PTTL', KEYS[1])
local is_held = left > 0 and left <= tonumber(ARGV[3])
if is_held and redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
