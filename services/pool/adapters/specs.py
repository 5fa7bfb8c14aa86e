"""What every provider asks of an id and a spec before it does anything. Pure."""

import re

from services.pool.ports import ProviderError, VmSpec

VM_ID = re.compile(r"[a-z0-9-]{1,64}")


def check_vm_id(vm_id: str) -> None:
    """Refuse an id that could name another path, group or container (`invalid_vm_id`)."""
    if not VM_ID.fullmatch(vm_id):
        raise ProviderError("invalid_vm_id", "a VM id is 1 to 64 of a-z, 0-9 and '-'")


def check_spec(spec: VmSpec) -> None:
    """Reject what would fail later, with the value that is wrong (`invalid_spec`); of the token only what is wrong with it."""
    wrong = ""
    if not spec.token or not spec.token.isascii() or not spec.token.isprintable():
        wrong = "token must be printable ASCII without line breaks"
    elif not 0.01 <= spec.cpu_cores <= 1024:
        wrong = f"cpu_cores is {spec.cpu_cores}; it must be from 0.01 to 1024"
    elif not 64 <= spec.memory_mb <= 1 << 24:
        wrong = f"memory_mb is {spec.memory_mb}; it must be 64 or more"
    elif not 16 <= spec.pids_max <= 1 << 22:
        wrong = f"pids_max is {spec.pids_max}; it must be 16 or more"
    elif not spec.orphan_timeout_s > 0:
        wrong = f"orphan_timeout_s is {spec.orphan_timeout_s}; it must be above 0"
    if wrong:
        raise ProviderError("invalid_spec", wrong)
