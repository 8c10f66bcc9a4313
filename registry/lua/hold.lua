-- Keeps a record for some seconds, in a table whose records end one by one. The clock is Redis's own.
--
-- KEYS  1 {:table}:until    zset  id -> the second its record ends
--       2 {:table}:records  hash  id -> record
-- ARGV  1 id  2 seconds (0 or less: it ends now)  3 record (of one that ends: only if it is still this one; empty: whichever it is)

if tonumber(ARGV[2]) <= 0 then
  if ARGV[3] ~= '' and redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[3] then return 0 end
  redis.call('ZREM', KEYS[1], ARGV[1])
  return redis.call('HDEL', KEYS[2], ARGV[1])
end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
redis.call('ZADD', KEYS[1], string.format('%.6f', now + tonumber(ARGV[2])), ARGV[1])
return redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
