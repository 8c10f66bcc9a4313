-- A step begins: all of its messages at once, or, where it has begun, none.
-- KEYS[1] {run} step messages   hash: slice -> JSON
-- ARGV[1] seconds to keep   ARGV[2...] the message of each slice, from slice 0 on
-- Answers 1, or 0 where the step was open already.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
for place = 2, #ARGV do
  redis.call('HSET', KEYS[1], place - 2, ARGV[place])
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
