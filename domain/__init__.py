"""Pure decisions about quests, players and tokens: no clock, no randomness, no I/O, nothing of ours imported."""
