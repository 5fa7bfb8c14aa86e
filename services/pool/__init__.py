"""Pool: keeps VMs booted ahead of need and hands each to one preview.

owns:  `vm` events (creation to destruction), `claim` events (previews waiting for a VM), `pool` events (its size)
hears: ticks; its own events
says:  VmAcquired, ClaimExpired, VmLost, VmFrozen, VmResumed to whoever listens
never: talks HTTP to users; touches a project's files; gives a VM that has run for one owner to another
"""
