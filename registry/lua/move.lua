-- Moves a rollout from the revision that the caller saw to the next one; may retire a version with it.
--
-- KEYS  1 {name}:adapter       hash    created_at, created_by, versions, events
--       2 {name}:rollout       hash    revision, record
--       3 {name}:versions      hash    number -> version JSON
--       4 {name}:retired       set     numbers
--       5 {name}:history       stream  entry N-0 is the Nth event
--       6 {name}:operation:ID  string  the rollout JSON that this operation was answered
-- ARGV  1 expected revision  2 new revision  3 rollout JSON  4 event JSON  5 seconds that the answer is kept
--       6 name  7 channel  8 champion or ''  9 challenger or ''  10 version to retire or ''
-- Answers {'unknown'}, {'answered', rollout JSON} (this was done before), {'stale', rollout JSON} (somebody
-- moved it), {'no_version', number}, {'retired', number}, {'moved'}. Only the last changed anything.

if redis.call('EXISTS', KEYS[1]) == 0 then
  return {'unknown'}
end
local answered = redis.call('GET', KEYS[6])
if answered then
  return {'answered', answered}
end
if ARGV[10] ~= '' and redis.call('SISMEMBER', KEYS[4], ARGV[10]) == 1 then
  return {'answered', redis.call('HGET', KEYS[2], 'record')}
end
if redis.call('HGET', KEYS[2], 'revision') ~= ARGV[1] then
  return {'stale', redis.call('HGET', KEYS[2], 'record')}
end
for place = 8, 10 do
  local number = ARGV[place]
  if number ~= '' then
    if redis.call('HEXISTS', KEYS[3], number) == 0 then
      return {'no_version', number}
    end
    if place < 10 and redis.call('SISMEMBER', KEYS[4], number) == 1 then
      return {'retired', number}
    end
  end
end

redis.call('HSET', KEYS[2], 'revision', ARGV[2], 'record', ARGV[3])
if ARGV[10] ~= '' then
  redis.call('SADD', KEYS[4], ARGV[10])
end
redis.call('SET', KEYS[6], ARGV[3], 'EX', ARGV[5])
local number = redis.call('HINCRBY', KEYS[1], 'events', 1)
redis.call('XADD', KEYS[5], number .. '-0', 'event', ARGV[4])
redis.call('PUBLISH', ARGV[7], ARGV[6])
return {'moved'}
