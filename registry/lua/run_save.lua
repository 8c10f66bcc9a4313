-- A run moves on, from the revision that the caller saw.
-- KEYS[1] {run} record   string: the run as JSON        KEYS[2] {run} search   string: the optimiser's state as JSON
-- KEYS[3] {run} revision string: integer                KEYS[4] {run} events   stream: field 'run', the record at every change
-- ARGV[1] expected revision   ARGV[2] record   ARGV[3] search state ('' leaves it)
-- Answers 1, or 0 where somebody else moved the run first.
local actual = tonumber(redis.call('GET', KEYS[3]) or '-1')
if actual ~= tonumber(ARGV[1]) then
  return 0
end
redis.call('SET', KEYS[3], actual + 1)
redis.call('SET', KEYS[1], ARGV[2])
if ARGV[3] ~= '' then
  redis.call('SET', KEYS[2], ARGV[3])
end
redis.call('XADD', KEYS[4], 'MAXLEN', '~', '2000', '*', 'run', ARGV[2])
return 1
