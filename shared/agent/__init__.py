"""The agent that runs inside every VM, and the client that speaks to it: both ends of one wire.

Does: the project's files, its jobs (install, dev server) and their logs, and the proof that a dev server answers.
Never: imports anything else of Drape (a VM image copies this package alone), decides what to run, or dials out.
Reading order: protocol, logs, processes, jobs, ports, readiness, tarstream, paths, sweep, files, server, client,
__main__; static_server and static_site are a dev server for projects that are only files, run as a job like any other.
"""
