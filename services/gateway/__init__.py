"""Gateway: the one door for browsers, front ends and the CLI; tells the truth about progress all the way.

owns:  `project` events
hears: everything that a browser shows: `preview`, `vm` and `claim` events, progress, logs
says:  HTTP, SSE and WebSocket; the preview itself, by host name; which previews are in use
never: decides about VMs or installs
"""
