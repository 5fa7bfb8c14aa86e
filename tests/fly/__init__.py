"""A Machines API that is not Fly's: real agents in local sandboxes, behind the API's states, leases and errors."""
