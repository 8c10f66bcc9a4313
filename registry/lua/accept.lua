-- Accepts an adapter as an older registry holds it (or lost it), under a revision that is newer than any that was known.
--
-- KEYS  1 {name}:adapter  hash    created_at, created_by, versions, events
--       2 {name}:rollout  hash    revision, record
--       3 {name}:history  stream  entry N-0 is the Nth event
--       4 {name}:moves    zset    number of a move's event, 12 digits -> when, microseconds since 1970
--       5 {:rollouts}:moves  string  how many creations and moves there were
-- ARGV  1 revision that the caller saw, '' for none  2 new revision  3 rollout JSON  4 event JSON  5 at  6 by
--       7 highest version number that was ever known: the next one is above it  8 name  9 channel
--       10 when, microseconds
-- Answers 1, or 0 where somebody moved it meanwhile (and nothing changed).

if (redis.call('HGET', KEYS[2], 'revision') or '') ~= ARGV[1] then
  return 0
end

redis.call('HSETNX', KEYS[1], 'created_at', ARGV[5])
redis.call('HSETNX', KEYS[1], 'created_by', ARGV[6])
local versions = tonumber(redis.call('HGET', KEYS[1], 'versions') or '0')
redis.call('HSET', KEYS[1], 'versions', string.format('%d', math.max(versions, tonumber(ARGV[7]))))
redis.call('HSET', KEYS[2], 'revision', ARGV[2], 'record', ARGV[3])
local number = redis.call('HINCRBY', KEYS[1], 'events', 1)
redis.call('XADD', KEYS[3], number .. '-0', 'event', ARGV[4])
redis.call('ZADD', KEYS[4], ARGV[10], string.format('%012d', number))
redis.call('INCR', KEYS[5])
redis.call('PUBLISH', ARGV[9], ARGV[8])
return 1
