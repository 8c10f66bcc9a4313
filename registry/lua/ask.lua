-- A version is wished for, for some seconds. Answers the wish's number: one more than the last, but that of a wish that stands
-- where it is only to be kept up. The clock is Redis's own.
--
-- KEYS  1 {:wanted}:until    zset    engine name -> the second the wish ends
--       2 {:wanted}:records  hash    engine name -> the wish's number
--       3 {:wanted}:asked    string  how many wishes there were
-- ARGV  1 engine name  2 seconds  3 1: keep up the wish that stands; 0: make another

local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local stands = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0) > now
local number = ARGV[3] == '1' and stands and redis.call('HGET', KEYS[2], ARGV[1])
number = tonumber(number or redis.call('INCR', KEYS[3]))
redis.call('ZADD', KEYS[1], string.format('%.6f', now + tonumber(ARGV[2])), ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], number)
return number
