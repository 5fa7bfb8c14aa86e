"""What Drape's VMs need on Fly: their image, pushed and pinned."""
