-- Writes a key's record and what was done to it, as one step.
--
-- KEYS  1 {:keys}:records   hash    id -> ApiKey JSON
--       2 {:keys}:revision  string  integer, one more for every change
--       3 {:keys}:history   stream  field 'event': who made or revoked which key, when and why
-- ARGV  1 id  2 record JSON  3 event JSON  4 'new' (the id must be free) or 'old' (it must be there)
-- Answers 1, or 0 where the id is not as expected (and nothing changed).

local held = redis.call('HEXISTS', KEYS[1], ARGV[1])
if (ARGV[4] == 'new') == (held == 1) then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('INCR', KEYS[2])
redis.call('XADD', KEYS[3], '*', 'event', ARGV[3])
return 1
