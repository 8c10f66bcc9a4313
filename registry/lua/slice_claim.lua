-- A worker takes a slice, unless it is reported already or another worker holds a live lease on it. The clock is Redis's own.
-- KEYS[1] {run} step fences   hash: slice -> fencing token       KEYS[2] {run} step reports   hash: slice -> JSON
-- KEYS[3] {run} step leases   hash: slice -> milliseconds since 1970 at which its lease ends
-- ARGV[1] slice   ARGV[2] lease in milliseconds   ARGV[3] seconds to keep
-- Answers the new fencing token, or 0.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 or tonumber(redis.call('HGET', KEYS[3], ARGV[1]) or '0') > now then
  return 0
end
local fence = redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
redis.call('HSET', KEYS[3], ARGV[1], string.format('%.0f', now + ARGV[2]))
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('EXPIRE', KEYS[3], ARGV[3])
return fence
