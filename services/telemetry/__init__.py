"""Telemetry: keeps the figures of every preview in PostgreSQL and raises alerts.

owns:  `alert` events: AlertRaised, AlertCleared; `resources` events: ResourcesMeasured
hears: every event (for its projection); ticks
says:  AlertRaised, AlertCleared to whoever listens; answers `stats`, `costs`, `resources`, `alerts` and `status`
never: sits on the path of a preview; holds anything that the log could not give again
"""
