-- Marks the record of an answer whose request id was used again; a record that has ended or changed meanwhile is left alone.
--
-- KEYS  1 interaction:{ID}  string  an Interaction as JSON; expires
-- ARGV  1 the record as it was read  2 the record as it is to be

if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
end
