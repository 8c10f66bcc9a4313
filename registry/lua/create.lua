-- Adds an adapter with its first rollout, once.
--
-- KEYS  1 {name}:adapter   hash    created_at, created_by, versions, events
--       2 {name}:rollout   hash    revision, record
--       3 {name}:history   stream  entry N-0 is the Nth event
--       4 {name}:moves     zset    number of a move's event, 12 digits -> when, microseconds since 1970
--       5 {:rollouts}:moves  string  how many creations and moves there were
-- ARGV  1 created at  2 created by  3 revision  4 rollout JSON  5 event JSON  6 name  7 channel  8 when, microseconds
-- Answers 1 when it was added, 0 when it is there already (and nothing changed).

if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end

redis.call('HSET', KEYS[1], 'created_at', ARGV[1], 'created_by', ARGV[2], 'versions', 0, 'events', 1)
redis.call('HSET', KEYS[2], 'revision', ARGV[3], 'record', ARGV[4])
redis.call('XADD', KEYS[3], '1-0', 'event', ARGV[5])
redis.call('ZADD', KEYS[4], ARGV[8], '000000000001')
redis.call('INCR', KEYS[5])
redis.call('PUBLISH', ARGV[7], ARGV[6])
return 1
