"""The language that the services share (ids, commands, events, codec) and the machinery under them (log, runtime, telemetry)."""
