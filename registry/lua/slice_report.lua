-- A worker reports a slice; a token that is not the latest is refused (its slice was taken over).
-- KEYS[1] {run} step fences   KEYS[2] {run} step reports   KEYS[3] {run} step leases   KEYS[4] {run} step messages   hash: slice -> JSON
-- ARGV[1] slice   ARGV[2] fencing token   ARGV[3] report   ARGV[4] seconds to keep
-- Answers how many slices of the step are still missing, or -1 where the report was refused.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return -1
end
if redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[3]) == 0 then
  return -1
end
redis.call('EXPIRE', KEYS[2], ARGV[4])
redis.call('HDEL', KEYS[3], ARGV[1])
return redis.call('HLEN', KEYS[4]) - redis.call('HLEN', KEYS[2])
