"""A cache of installed dependencies (node_modules and build caches) for VMs whose files are on this machine.

    folder/  entries/<sha256 of owner and key>/{manifest, data, use}   spares/<the same name>/   tmp/<random>/

One entry is one install: `data` holds the contents of all its files in one piece, `manifest` says what stands where
and what its sha256 is. `DepsCache.publish` copies trees out of a VM, `DepsCache.restore` writes them into another one.
Every failure is a `CacheError`, whose code means "install instead"; a restore never leaves half a tree.

It runs in the pool's process. Projects cannot see its folder (the sandbox shows them their VM's only), but own every
file in their VM and may change any of them at any moment: sources and targets are therefore walked by descriptors,
without following links, and a tree is built where the project cannot reach it and then renamed into place.

`DepsCache.prepare` writes an entry's trees ahead of the next restore, which then only compares and moves them: making a
file costs up to a millisecond on some filesystems, and an install has thousands. A spare is used once, by one VM.

Why contents are copied, in both directions:

- Hard links share the inode. A project that writes to a file in place would write into the cache, and so into the
  next VM. Read-only modes do not help: in the sandbox the project's user 1000 is the user who started Drape, so it owns
  the inode and may chmod it. Files of another owner would need a pool that runs as root or a helper that does, and
  VMs that run as another user; Drape has neither.
- Reflinks share blocks, not inodes, and are safe. `copy_file_range` makes them where the filesystem can (btrfs, XFS),
  which is why larger files begin at block boundaries in `data`; elsewhere the kernel copies.
- An overlay would need a mount inside the namespace of a VM that is already running, and privileges to make it.

One file of data, and not a tree: it is made durable by one fsync and removed by one unlink, and a restore that has it
open goes on reading it when the entry is evicted.

Not covered: a process outside a sandbox that runs as the same user can change data and manifest together.
"""

from services.pool.adapters.deps_cache.cache import DepsCache
from services.pool.adapters.deps_cache.errors import CacheError
from services.pool.adapters.deps_cache.model import CacheLimits, Entry, Published, Restored, VmPlace

__all__ = ["CacheError", "CacheLimits", "DepsCache", "Entry", "Published", "Restored", "VmPlace"]
