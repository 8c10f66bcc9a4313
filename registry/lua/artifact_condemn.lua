-- Garbage collection may delete a digest, unless it was announced within the grace period or since the records were read.
--
-- KEYS  1 {:artifacts}:arriving   zset  digest -> the second it was announced
--       2 {:artifacts}:condemned  zset  digest -> the second until which it may be deleted
-- ARGV  1 digest  2 the second since which an announcement counts  3 how long it stays condemned, seconds; 0 takes the sentence back
-- Answers {'condemned'}, {'arriving'} (announced a moment ago, or another collector is at it; nothing changed), {'free'} (ARGV 3 was 0).

if tonumber(ARGV[3]) == 0 then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return {'free'}
end
local at = tonumber(redis.call('TIME')[1])
local sentence = redis.call('ZSCORE', KEYS[2], ARGV[1])
if sentence and tonumber(sentence) > at then
  return {'arriving'}
end
local announced = redis.call('ZSCORE', KEYS[1], ARGV[1])
if announced and tonumber(announced) >= tonumber(ARGV[2]) then
  return {'arriving'}
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[2], at + tonumber(ARGV[3]), ARGV[1])
return {'condemned'}
