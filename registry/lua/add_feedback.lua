-- Adds feedback, all of it or (when an id is taken by other content) none; new ratings join their version's sums.
--
-- KEYS  1 {name}:feedback        hash  id -> sha256 of the content (64 characters), a space, feedback JSON
--       2 {name}:feedback-order  zset  id -> its place, 1 for the first
--       3 {name}:figures         hash  VERSION:ratings, VERSION:rating_sum, and other sums
-- ARGV  fives of: id, sha256 of the content, feedback JSON, version or '', rating or ''. No id twice.
-- Answers {'conflict', id} (and nothing changed), or {'done', ...} with '' for each that is new, else the JSON held.

for place = 1, #ARGV, 5 do
  local held = redis.call('HGET', KEYS[1], ARGV[place])
  if held and string.sub(held, 1, 64) ~= ARGV[place + 1] then
    return {'conflict', ARGV[place]}
  end
end

local answer = {'done'}
for place = 1, #ARGV, 5 do
  local held = redis.call('HGET', KEYS[1], ARGV[place])
  if held then
    answer[#answer + 1] = string.sub(held, 66)
  else
    redis.call('HSET', KEYS[1], ARGV[place], ARGV[place + 1] .. ' ' .. ARGV[place + 2])
    redis.call('ZADD', KEYS[2], redis.call('ZCARD', KEYS[2]) + 1, ARGV[place])
    if ARGV[place + 3] ~= '' then
      redis.call('HINCRBY', KEYS[3], ARGV[place + 3] .. ':ratings', 1)
      redis.call('HINCRBYFLOAT', KEYS[3], ARGV[place + 3] .. ':rating_sum', ARGV[place + 4])
    end
    answer[#answer + 1] = ''
  end
end
return answer
