-- The replicas whose record has not ended, and those of which it has: these for some seconds from when that is first seen, since
-- Redis may have been away for longer than a record lives. Then their records are dropped. The clock is Redis's own.
--
-- KEYS  1 {:replicas}:until    zset  id -> the second its record ends
--       2 {:replicas}:records  hash  id -> record
--       3 {:replicas}:silent   zset  id -> the second its ended record is dropped
-- ARGV  1 seconds that an ended record is kept
-- Answers record, '1' (it has ended) or '0', record, '1' or '0', ...

local clock = redis.call('TIME')
local seconds = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local now = string.format('%.6f', seconds)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  redis.call('ZREM', KEYS[1], id)
  redis.call('ZADD', KEYS[3], string.format('%.6f', seconds + tonumber(ARGV[1])), id)
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now)) do
  redis.call('ZREM', KEYS[3], id)
  if not redis.call('ZSCORE', KEYS[1], id) then redis.call('HDEL', KEYS[2], id) end
end
local answer = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  answer[#answer + 1] = redis.call('HGET', KEYS[2], id)
  answer[#answer + 1] = '0'
end
for _, id in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  local record = redis.call('HGET', KEYS[2], id) -- none: it said goodbye after all
  if record and not redis.call('ZSCORE', KEYS[1], id) then
    answer[#answer + 1] = record
    answer[#answer + 1] = '1'
  end
end
return answer
