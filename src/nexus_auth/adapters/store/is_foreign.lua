-- Something other than a hash under our name was not written by us. It must not make the store
-- count as away: it would stay for ever. Other errors are passed on.
-- This stands before each script that reads the snapshot.
local function is_foreign(answer)
  return type(answer) == 'table' and string.find(answer.err or '', 'WRONGTYPE') ~= nil
end
