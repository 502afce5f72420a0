"""Commands in, events out: subjects, envelopes, actors, partitions and the ports they speak through."""
