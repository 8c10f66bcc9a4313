-- A worker takes a slice, unless it is reported already or another worker holds a live lease on it.
-- KEYS[1] {run} step fences   hash: slice -> fencing token       KEYS[2] {run} step reports   hash: slice -> JSON
-- KEYS[3] {run} step lease    string: the token that holds it, expires by itself
-- ARGV[1] slice   ARGV[2] lease in milliseconds
-- Answers the new fencing token, or 0.
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 or redis.call('EXISTS', KEYS[3]) == 1 then
  return 0
end
local fence = redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
redis.call('SET', KEYS[3], fence, 'PX', ARGV[2])
return fence
