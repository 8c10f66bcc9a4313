-- Adds a version under the next number, unless the adapter has its digest already.
--
-- KEYS  1 {name}:adapter   hash    created_at, created_by, versions, events
--       2 {name}:versions  hash    number -> version JSON, never written again
--       3 {name}:digests   hash    digest -> number
--       4 {name}:history   stream  entry N-0 is the Nth event
-- ARGV  1 number  2 digest  3 version JSON  4 event JSON  5 name  6 channel
-- Answers {'unknown'} (no such adapter), {'held', number} (the digest is there), {'taken'} (the number is not the
-- next one), {'added'}. Only the last changed anything.

local count = redis.call('HGET', KEYS[1], 'versions')
if not count then
  return {'unknown'}
end
local held = redis.call('HGET', KEYS[3], ARGV[2])
if held then
  return {'held', held}
end
if tonumber(ARGV[1]) ~= tonumber(count) + 1 then
  return {'taken'}
end

redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
redis.call('HSET', KEYS[3], ARGV[2], ARGV[1])
redis.call('HSET', KEYS[1], 'versions', ARGV[1])
local number = redis.call('HINCRBY', KEYS[1], 'events', 1)
redis.call('XADD', KEYS[4], number .. '-0', 'event', ARGV[4])
redis.call('PUBLISH', ARGV[6], ARGV[5])
return {'added'}
