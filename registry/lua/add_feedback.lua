-- Adds feedback. 'all': every item or (when an id is taken by other content) none; 'each': every item by itself; 'look': none,
-- but answered as 'all' where that would refuse.
-- Of two ratings in one slot the later counts in its version's sums, of two corrections or pairs it stands; the log keeps both.
--
-- KEYS  1 {name}:feedback             hash  id -> sha256 of the content (64 characters), a space, feedback JSON
--       2 {name}:feedback-order       zset  id -> its place, 1 for the first
--       3 {name}:figures              hash  VERSION:ratings, VERSION:rating_nano and :rating_square_nano (billionths), other sums
--       4 {name}:feedback-slots       hash  slot -> rank (32 characters), version or '', ' ', rating in billionths or '', ' ', id
--       5 {name}:feedback-superseded  hash  id -> 'PART ID' of what was replaced and by which, several with ',' between
--       6 {name}:adapter              hash  versions: how many there are; no such key: no such adapter
-- ARGV  1 'all', 'each' or 'look'  2 'there' where adapter and versions must be there, or ''  then nines of: id, sha256 of the content, feedback JSON, rank, version or '', rating in billionths
--       or '', and the slots of its rating, correction and pair, '' where there is none. An id that
--       comes twice is new once; for 'all' both say the same, as the caller has checked.
-- Answers {'conflict', id, held} or {'unknown', id, versions or ''} (and nothing changed), or {'done', ...} (for 'look' it alone),
-- for each item '' where it is new, 'same ' and the JSON held, 'conflict ' and what is held, or 'unknown ' and the versions or ''.

local PARTS = {'rating', 'correction', 'pair'}
local FIRST, WIDTH = 3, 9

local function count(version, nano, by)
  if version == '' or nano == '' then return end
  redis.call('HINCRBY', KEYS[3], version .. ':ratings', by)
  if nano ~= '0' then
    local square = string.format('%.0f', math.floor(tonumber(nano) ^ 2 / 1e9 + 0.5))  -- the same each time: taken back, none is left
    redis.call('HINCRBY', KEYS[3], version .. ':rating_nano', by > 0 and nano or '-' .. nano)
    if square ~= '0' then
      redis.call('HINCRBY', KEYS[3], version .. ':rating_square_nano', by > 0 and square or '-' .. square)
    end
  end
end

local function supersede(id, part, by)
  local known = redis.call('HGET', KEYS[5], id)
  redis.call('HSET', KEYS[5], id, (known and known .. ',' or '') .. part .. ' ' .. by)
end

local function take(part, slot, id, rank, version, nano)
  local held = slot ~= '' and redis.call('HGET', KEYS[4], slot)
  if held then
    local before, old_version, old_nano, old_id = string.match(held, '^(' .. string.rep('.', 32) .. ')(%d*) (%d*) (.*)$')
    if before > rank then
      supersede(id, part, old_id)
      return
    end
    supersede(old_id, part, id)
    if part == 'rating' then count(old_version, old_nano, -1) end
  end
  if slot ~= '' then redis.call('HSET', KEYS[4], slot, rank .. version .. ' ' .. nano .. ' ' .. id) end
  if part == 'rating' then count(version, nano, 1) end
end

local versions = ARGV[2] == 'there' and (redis.call('HGET', KEYS[6], 'versions') or '')

local function unknown(version)
  return versions and (versions == '' or (version ~= '' and tonumber(version) > tonumber(versions)))
end

if ARGV[1] ~= 'each' then
  for place = FIRST, #ARGV, WIDTH do
    if unknown(ARGV[place + 4]) then return {'unknown', ARGV[place], versions} end
    local held = redis.call('HGET', KEYS[1], ARGV[place])
    if held and string.sub(held, 1, 64) ~= ARGV[place + 1] then
      return {'conflict', ARGV[place], held}
    end
  end
end

local answer = {'done'}
if ARGV[1] == 'look' then return answer end
local last = redis.call('ZCARD', KEYS[2])
for place = FIRST, #ARGV, WIDTH do
  local id = ARGV[place]
  local held = redis.call('HGET', KEYS[1], id)
  if unknown(ARGV[place + 4]) then
    answer[#answer + 1] = 'unknown ' .. versions
  elseif not held then
    last = last + 1
    redis.call('HSET', KEYS[1], id, ARGV[place + 1] .. ' ' .. ARGV[place + 2])
    redis.call('ZADD', KEYS[2], last, id)
    for index, part in ipairs(PARTS) do
      take(part, ARGV[place + 5 + index], id, ARGV[place + 3], ARGV[place + 4], ARGV[place + 5])
    end
    answer[#answer + 1] = ''
  elseif string.sub(held, 1, 64) == ARGV[place + 1] then
    answer[#answer + 1] = 'same ' .. string.sub(held, 66)
  else
    answer[#answer + 1] = 'conflict ' .. held
  end
end
return answer
