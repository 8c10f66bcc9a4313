-- Moves a rollout from the revision that the caller saw to the next one; may retire a version or change the policy with it.
--
-- KEYS  1 {name}:adapter       hash    created_at, created_by, versions, events
--       2 {name}:rollout       hash    revision, record, policy
--       3 {name}:versions      hash    number -> version JSON
--       4 {name}:retired       set     numbers
--       5 {name}:history       stream  entry N-0 is the Nth event
--       6 {name}:operation:ID  string  what this operation was answered, JSON
--       7 {name}:moves         zset    number of a move's event, 12 digits -> when, microseconds since 1970
--       8 {:rollouts}:moves    string  how many creations and moves there were
-- ARGV  1 expected revision  2 new revision  3 rollout JSON  4 event JSON  5 answer JSON  6 seconds that it is kept
--       7 name  8 channel  9 when, microseconds  10 policy JSON or ''
--       11 champion or ''  12 challenger or ''  13 version that is newly pinned or ''  14 version to retire or ''
-- Answers {'unknown'}, {'answered', answer JSON} (this was done before), {'retired_before', rollout JSON}, {'stale',
-- rollout JSON} (somebody moved it), {'no_version', number}, {'retired', number}, {'moved'}. Only the last changed anything.

if redis.call('EXISTS', KEYS[1]) == 0 then
  return {'unknown'}
end
local answered = redis.call('GET', KEYS[6])
if answered then
  return {'answered', answered}
end
if ARGV[14] ~= '' and redis.call('SISMEMBER', KEYS[4], ARGV[14]) == 1 then
  return {'retired_before', redis.call('HGET', KEYS[2], 'record')}
end
if redis.call('HGET', KEYS[2], 'revision') ~= ARGV[1] then
  return {'stale', redis.call('HGET', KEYS[2], 'record')}
end
for place = 11, 14 do
  local number = ARGV[place]
  if number ~= '' then
    if redis.call('HEXISTS', KEYS[3], number) == 0 then
      return {'no_version', number}
    end
    if place < 14 and redis.call('SISMEMBER', KEYS[4], number) == 1 then
      return {'retired', number}
    end
  end
end

redis.call('HSET', KEYS[2], 'revision', ARGV[2], 'record', ARGV[3])
if ARGV[10] ~= '' then
  redis.call('HSET', KEYS[2], 'policy', ARGV[10])
end
if ARGV[14] ~= '' then
  redis.call('SADD', KEYS[4], ARGV[14])
end
redis.call('SET', KEYS[6], ARGV[5], 'EX', ARGV[6])
local number = redis.call('HINCRBY', KEYS[1], 'events', 1)
redis.call('XADD', KEYS[5], number .. '-0', 'event', ARGV[4])
redis.call('ZADD', KEYS[7], ARGV[9], string.format('%012d', number))
redis.call('INCR', KEYS[8])
redis.call('PUBLISH', ARGV[8], ARGV[7])
return {'moved'}
