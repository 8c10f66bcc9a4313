-- The slices of a step that are to be sent now: never sent, or sent so long ago that the message must be lost. They count as
-- sent from now on; each time one is sent again it may take twice as long, eight times at most. None is lost that may still wait its
-- turn: the queue is in order, and a slice that was sent before it is being scored. The clock is Redis's own.
-- KEYS[1] {run} step messages   hash: slice -> JSON           KEYS[2] {run} step reports   hash: slice -> JSON
-- KEYS[3] {run} step sent       hash: slice -> 'ms times'     KEYS[4] {run} step leases    hash: slice -> ms at which it ends
-- ARGV[1] milliseconds after which a message is lost   ARGV[2] most slices that may be under way   ARGV[3] seconds to keep
-- Answers their messages, in the order of the slices.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local reports, sent, leases = {}, {}, {}
for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
  reports[field] = true
end
for read, key in pairs({[sent] = KEYS[3], [leases] = KEYS[4]}) do
  local flat = redis.call('HGETALL', key)
  for place = 1, #flat, 2 do
    read[flat[place]] = flat[place + 1]
  end
end
-- The first slice sent of those that are being scored: when, and its number.
local first, first_number
for slice, ends in pairs(leases) do
  local at = tonumber(string.match(sent[slice] or '', '^%d+'))
  if at and not reports[slice] and tonumber(ends) > now then
    if not first or at < first or (at == first and tonumber(slice) < first_number) then
      first, first_number = at, tonumber(slice)
    end
  end
end
local under_way, waiting = 0, {}
for number = 0, redis.call('HLEN', KEYS[1]) - 1 do
  local slice = tostring(number)
  if not reports[slice] then
    local at, times = string.match(sent[slice] or '', '^(%d+) (%d+)$')
    local patience = ARGV[1] * math.min(8, 2 ^ ((tonumber(times) or 1) - 1))
    local behind = at and first and (first < tonumber(at) or (first == tonumber(at) and first_number < number))
    if tonumber(leases[slice] or '0') > now or behind or (at and now - at < patience) then
      under_way = under_way + 1
    else
      waiting[#waiting + 1] = {slice, (tonumber(times) or 0) + 1}
    end
  end
end
local answer = {}
for _, pair in ipairs(waiting) do
  if under_way >= tonumber(ARGV[2]) then
    break
  end
  under_way = under_way + 1
  redis.call('HSET', KEYS[3], pair[1], string.format('%.0f %d', now, pair[2]))
  answer[#answer + 1] = redis.call('HGET', KEYS[1], pair[1])
end
redis.call('EXPIRE', KEYS[3], ARGV[3])
return answer
