"""Drape on one machine: starts, watches and ends NATS, PostgreSQL and the four services as processes.

Owns `DRAPE_HOME`: its folders, secrets, process records and logs. Never imports a service (they are processes),
never touches what lies outside the home, and never ends a process that it cannot prove to be its own.

Reading order: `paths` (where), `secrets`, `records` (which processes are ours), `logs`, `processes` (one supervised
child), `nats` and `postgres` (the two servers), `leftovers` (what a killed supervisor left), `launcher` (everything
together), `detach` (in the background, and down again).
"""
