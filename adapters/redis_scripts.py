"""The scripts that run inside of Redis or Valkey: one applies a batch with its position, others read ranks.

All keys of a tenant have one hash tag, so that a cluster keeps them on one node. The boards that a batch touches depend
on what is stored (a player's region), so their keys are made inside, from the prefix, and not declared one by one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import redis.asyncio as redis
from redis.exceptions import NoScriptError

# What APPLY answers.
FENCED, APPLIED, SWITCHED, HELD = 0, 1, 2, 3

# KEYS: position, live, hold. ARGV: 1-3 the expected position (created, seq, hash), 4-6 the new one, 7 the generation
# if it must be the live one (else ''), 8 the version, 9 the settings of the boards, 10 the prefix of the generation's
# keys, 11 the writes in MessagePack: [profiles as player, profile, player ..; boards as [name, is best, profile bits,
# players, values, sequences]; parked as sequence, event ..; sequences that are parked no more].
# 3,500 pairs stay below Lua's limit of 8,000 values a call.
APPLY: Final = """
if ARGV[7] ~= '' then
  if (redis.call('GET', KEYS[2]) or '1') ~= ARGV[7] then return {2, '0'} end
  if redis.call('EXISTS', KEYS[3]) == 1 then return {3, '0'} end
end
local stored = redis.call('HMGET', KEYS[1], 'stream_created', 'stream_seq', 'leaf_hash')
if (stored[1] or ARGV[1]) ~= ARGV[1] or (stored[2] or '0') ~= ARGV[2] or (stored[3] or '') ~= ARGV[3] then
  return {0, stored[2] or '0'}
end
local CHUNK = 3500
local prefix = ARGV[10]
local function text(number) return string.format('%.0f', number) end

-- Where the score begins in a standing: a letter says how many digits of the sequence come before it, A one.
local function score_at(standing) return string.byte(standing) - 62 end

-- Adds `value` to each player's score on a board, or keeps the better one.
local function put(name, is_best, players, values, seqs)
  local board, members, scores = prefix .. 'board:' .. name, prefix .. 'members:' .. name, prefix .. 'scores:' .. name
  redis.call('SADD', prefix .. 'boards', name)
  for from = 1, #players, CHUNK do
    local upto = math.min(from + CHUNK - 1, #players)
    local found = redis.call('HMGET', members, unpack(players, from, upto))
    local added, stood, seen, distinct, gone, left = {}, {}, {}, {}, {}, {}
    for i = from, upto do
      local player, value, standing, at, before = players[i], values[i], found[i - from + 1], nil, nil
      if standing then
        at = score_at(standing)
        before = tonumber(string.sub(standing, at))
        if not is_best then value = before + value end
      end
      if not (is_best and before and before <= value) then
        local score = text(value)
        added[#added + 1] = score
        added[#added + 1] = seqs[i] .. player
        stood[#stood + 1] = player
        stood[#stood + 1] = seqs[i] .. score
        if not seen[score] then
          seen[score] = true
          distinct[#distinct + 1] = score
          distinct[#distinct + 1] = score
        end
        if standing then
          gone[#gone + 1] = string.sub(standing, 1, at - 1) .. player
          if before ~= value then left[#left + 1] = string.sub(standing, at) end
        end
      end
    end
    if #gone > 0 then redis.call('ZREM', board, unpack(gone)) end
    if #added > 0 then
      redis.call('ZADD', board, unpack(added))
      redis.call('HSET', members, unpack(stood))
      redis.call('ZADD', scores, unpack(distinct))
    end
    for _, score in ipairs(left) do
      if redis.call('ZCOUNT', board, score, score) == 0 then redis.call('ZREM', scores, score) end
    end
  end
end

-- The same on the boards of each player's region, cohort, or both.
local function put_by_profile(name, is_best, bits, players, values, seqs)
  local groups = {}
  for from = 1, #players, CHUNK do
    local upto = math.min(from + CHUNK - 1, #players)
    local profiles = redis.call('HMGET', prefix .. 'profiles', unpack(players, from, upto))
    for i = from, upto do
      local region, cohort = string.match(profiles[i - from + 1] or '|', '^(.*)|(.*)$')
      local key = name
      if bits % 2 == 1 then key = region ~= '' and key .. ':' .. region or nil end
      if key and bits >= 2 then key = cohort ~= '' and key .. ':' .. cohort or nil end
      if key then
        local group = groups[key]
        if not group then
          group = {{}, {}, {}}
          groups[key] = group
        end
        table.insert(group[1], players[i])
        table.insert(group[2], values[i])
        table.insert(group[3], seqs[i])
      end
    end
  end
  for key, group in pairs(groups) do put(key, is_best, group[1], group[2], group[3]) end
end

local function set(name, pairs_)
  for from = 1, #pairs_, 2 * CHUNK do
    redis.call('HSET', prefix .. name, unpack(pairs_, from, math.min(from + 2 * CHUNK - 1, #pairs_)))
  end
end

local writes = cmsgpack.unpack(ARGV[11])
set('profiles', writes[1])
for _, board in ipairs(writes[2]) do
  if board[3] == 0 then put(board[1], board[2], board[4], board[5], board[6])
  else put_by_profile(board[1], board[2], board[3], board[4], board[5], board[6]) end
end
set('parked', writes[3])
for _, seq in ipairs(writes[4]) do redis.call('HDEL', prefix .. 'parked', seq) end
redis.call('HSET', KEYS[1], 'stream_created', ARGV[4], 'stream_seq', ARGV[5], 'leaf_hash', ARGV[6])
redis.call('HSETNX', KEYS[1], 'version', ARGV[8])
redis.call('HSETNX', KEYS[1], 'boards', ARGV[9])
return {1, ARGV[5]}
"""

# KEYS: members, board, scores. ARGV: a player or '', then how many lines above and below, or the first place from 0
# and how many. Returns the size, the player's place from 0, how many are better and how many not worse than that
# player, the first line's place, how many are better than its score, how many better scores there are, and the lines as
# member, score, member, score ..; false for a player who does not stand there. O(log n + lines).
LINES: Final = """
local place, better, upto, from, last = 0, 0, 0, 0, 0
if ARGV[1] ~= '' then
  local standing = redis.call('HGET', KEYS[1], ARGV[1])
  if not standing then return false end
  local at = string.byte(standing) - 62
  local score = string.sub(standing, at)
  place = redis.call('ZRANK', KEYS[2], string.sub(standing, 1, at - 1) .. ARGV[1])
  if not place then return false end
  better = redis.call('ZCOUNT', KEYS[2], '-inf', '(' .. score)
  upto = redis.call('ZCOUNT', KEYS[2], '-inf', score)
  from, last = math.max(0, place - tonumber(ARGV[2])), place + tonumber(ARGV[3])
else
  from = tonumber(ARGV[2])
  last = from + tonumber(ARGV[3]) - 1
end
local lines = redis.call('ZRANGE', KEYS[2], from, last, 'WITHSCORES')
local above, dense = 0, 0
if #lines > 0 then
  above = redis.call('ZCOUNT', KEYS[2], '-inf', '(' .. lines[2])
  dense = redis.call('ZRANK', KEYS[3], lines[2]) or 0
end
return {redis.call('ZCARD', KEYS[2]), place, better, upto, from, above, dense, lines}
"""

# KEYS: members, board. ARGV: players. Returns the size and, for each player, the standing (false for who does not stand
# there); then, for each who does, the place from 0. Who needs no places asks without a script: moving 50 texts in and
# out of Lua takes longer than finding them.
PLACES: Final = """
local standings, places = redis.call('HMGET', KEYS[1], unpack(ARGV)), {}
for i, standing in ipairs(standings) do
  if standing then
    local member = string.sub(standing, 1, string.byte(standing) - 63) .. ARGV[i]
    places[#places + 1] = redis.call('ZRANK', KEYS[2], member)
  end
end
return {redis.call('ZCARD', KEYS[2]), standings, places}
"""

# KEYS: position, boards. Returns the position's sequence and each board as one text of members and scores: a client
# takes a text apart a hundred times faster than so many answers.
WHOLE: Final = """
local found = {redis.call('HGET', KEYS[1], 'stream_seq') or '0'}
for i = 2, #KEYS do found[i] = table.concat(redis.call('ZRANGE', KEYS[i], 0, -1, 'WITHSCORES'), ' ') end
return found
"""


class Script:
    """A script called by its digest; loaded when the server does not know it (restart, failover, flush)."""

    def __init__(self, client: redis.Redis, text: str) -> None:
        self._client = client
        self._text = text
        self._digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, keys: Sequence[str], arguments: Sequence[str | bytes | int]) -> Any:
        try:
            return await self._client.evalsha(self._digest, len(keys), *keys, *arguments)
        except NoScriptError:
            await self._client.script_load(self._text)
            return await self._client.evalsha(self._digest, len(keys), *keys, *arguments)
