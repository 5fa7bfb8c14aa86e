"""Rubbish for every door: HTTP, sockets, NATS bodies, the agent, archives, projects and their output. `python -m tests.fuzz`."""
