"""What the gateway needs from outside: one file a technology."""
