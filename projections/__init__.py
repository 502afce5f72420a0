"""Read sides as pure functions: events in, writes out. The sinks that carry the writes out live in `adapters`."""
