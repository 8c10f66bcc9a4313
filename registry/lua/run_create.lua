-- A run begins, unless another run of the adapter is still going.
-- KEYS[1] {adapter} going      string: the id of the run that is going, or of one that ended
-- KEYS[2] {adapter} runs       zset: run id -> created at, seconds; every run that ever held the place
-- KEYS[3] runs                 zset: the same, of all adapters
-- ARGV[1] id of the new run   ARGV[2] id that the caller saw there and knows to have ended ('' for none)   ARGV[3] created at
-- Answers the id that holds the place afterwards: the caller's own, or its rival's.
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] and held ~= ARGV[2] then
  return held
end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
return ARGV[1]
