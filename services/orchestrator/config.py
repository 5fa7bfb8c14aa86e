"""Every knob of the orchestrator, with its unit and the reason for its default. Set by `DRAPE_ORCHESTRATOR_<NAME>`."""

import msgspec


class OrchestratorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Read once, in `app.py`."""

    acquire_limit_s: float = 60.0
    """How long a preview waits for a VM: several cold boots."""
    sync_limit_s: float = 60.0
    """Bringing the files in: 512 MiB over a slow disk."""
    install_limit_s: float = 120.0
    """A cold install of a large framework took 27 s; a registry that hangs must not hold the preview for ever."""
    boot_limit_s: float = 120.0
    """From the dev server's start to its first whole answer; the slowest one measured took 13 s on an idle machine."""
    confirm_limit_s: float = 30.0
    """The first answer through the gateway, once the agent has had one."""
    limit_grace_s: float = 15.0
    """The log's timer fires so much after the step's own limit: it only counts where the step's replica has died."""
    steady_error_s: float = 15.0
    """A dev server that answers 5xx for so long, and nothing else, has failed: the project is broken, not slow."""
    tick_s: float = 0.5
    """How often progress is told while a step runs; at least every second reaches the user."""
    agent_retry_s: float = 0.3
    """Pause before an unreachable agent is tried again."""
    log_batch_s: float = 0.1
    """A project's output is stored in batches this far apart."""
    log_batch_lines_max: int = 200
    """Lines in one batch."""
    vm_losses_max: int = 2
    """A preview whose VM is lost starts anew so many times, then it fails."""
    gateway_url: str = "http://127.0.0.1:8080"
    """Where readiness is confirmed: the path that the browser uses."""
    preview_origin: str = "http://{id}.preview.localhost:8080"
    """The address of a preview; `{id}` is replaced."""
