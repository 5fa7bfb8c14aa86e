"""Orchestrator: carries one preview from its request to a dev server that answers, or to a reason why not.

owns:  `preview` events
hears: VmAcquired, VmCleaned, VmReleased, VmRetired, VmLost, VmSuspended, VmFrozen, VmResumed, claims (pool); project events,
       activity (gateway); timers
says:  every step of a preview as an event; how far it is over `drape.progress.<preview>`
never: creates or destroys VMs; calls a preview ready that has not answered
"""
