-- Whether a tick is wanted: none began within so many seconds. If so, one has begun now. The clock is Redis's own.
-- KEYS[1] {:workers}:ticked   string: when the latest tick began, seconds since 1970
-- ARGV[1] seconds
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local since = now - tonumber(redis.call('GET', KEYS[1]) or '0')
if since >= 0 and since < tonumber(ARGV[1]) then
  return 0
end
redis.call('SET', KEYS[1], string.format('%.6f', now))
return 1
