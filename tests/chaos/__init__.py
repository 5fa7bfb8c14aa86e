"""Chaos, for real: a platform of processes under load, while processes, disks and cables are taken from it."""
