-- The worker that holds a slice keeps it, or (a lease of no time) gives it back. Only the latest token may: a slice that was
-- taken over is left to whoever has it now. A lease that ran out unnoticed is taken up again.
-- KEYS[1] {run} step fences   hash: slice -> fencing token       KEYS[2] {run} step reports   hash: slice -> JSON
-- KEYS[3] {run} step leases   hash: slice -> milliseconds since 1970 at which its lease ends
-- ARGV[1] slice   ARGV[2] fencing token   ARGV[3] lease in milliseconds
-- Answers 1, or 0 where the slice is not the caller's any more.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] or redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then
  return 0
end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('HSET', KEYS[3], ARGV[1], string.format('%.0f', now + ARGV[3]))
return 1
