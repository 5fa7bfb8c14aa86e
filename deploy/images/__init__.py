"""Container images that are built on this machine, from what is installed here; nothing is pulled."""
