-- Bytes are about to be put, or looked for to be named: garbage collection leaves them alone from here on.
--
-- KEYS  1 {:artifacts}:arriving   zset  digest -> the second it was announced
--       2 {:artifacts}:condemned  zset  digest -> the second until which it may be deleted
-- ARGV  1 digest
-- Answers {'announced'}, or {'condemned'} while its bytes are being deleted: wait and ask again. Only the first changed
-- anything.

local at = tonumber(redis.call('TIME')[1])
local condemned = redis.call('ZSCORE', KEYS[2], ARGV[1])
if condemned and tonumber(condemned) > at then
  return {'condemned'}
end
redis.call('ZADD', KEYS[1], at, ARGV[1])
return {'announced'}
