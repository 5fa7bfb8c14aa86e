"""Every knob of the orchestrator, with its unit and the reason for its default. Set by `DRAPE_ORCHESTRATOR_<NAME>`."""

import msgspec


class OrchestratorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Read once, in `app.py`."""

    acquire_limit_s: float = 60.0
    """How long a preview waits for a VM: several cold boots."""
    key_wait_s: float = 1.0
    """Where a VM is kept for the owner, or a resident runs, the claim waits so long for detection, which tells if it fits."""
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
    steady_error_s: float = 4.0
    """A dev server that answers 5xx for so long, and nothing else, shows an error in the project: it is broken, not slow."""
    hung_s: float = 60.0
    """A dev server without output and without an answer for so long hangs. The slowest silent compile measured took 13 s."""
    failed_keep_s: float = 300.0
    """A failed preview holds its VM so long, so that the next try can go on in it; less where another waits for one."""
    prepared_keep_s: float = 180.0
    """A preparation that nobody asks to see is released after this time."""
    error_recheck_s: float = 5.0
    """A dev server that shows an error is asked again after an edit, or after so long; twice that each further time."""
    error_recheck_max_s: float = 60.0
    """Longest pause between those."""
    suspend_after_s: float = 300.0
    """A preview that nobody has used for so long is frozen until the next request; 0: never."""
    idle_check_s: float = 5.0
    """How often that is looked for."""
    suspended_max: int = 20
    """Previews that stay frozen; beyond that the one frozen longest is stopped."""
    suspended_mb_max: int = 4096
    """Memory that frozen previews may hold together, in MiB; beyond that the one frozen longest is stopped."""
    hmr_timeout_s: float = 5.0
    """How long the socket for edits may take to answer, once, after ready."""
    keep_retry_s: float = 5.0
    """Pause before dependencies that were being written to are copied again for other VMs."""
    keep_build_after_s: float = 30.0
    """A framework's build cache is kept so long after ready: dev servers write theirs once they are idle."""
    residents_period_s: float = 10.0
    """Tick that requests the residents which templates lack, where no event has."""
    resident_retry_s: float = 300.0
    """A template whose dev server fails is tried again after so long, or once its files have changed."""
    resident_settle_s: float = 0.2
    """A dev server that ran before the files came is asked so long after them: watchers hold events back up to 100 ms."""
    previews_per_owner_max: int = 500
    """Live previews of one owner, all replicas together. An app builder is one owner with many users; where owners are
    people, set it below the pool's maximum, so that none can take every VM."""
    previews_max: int = 2000
    """Live previews of all owners; each costs some 20 kB in every service."""
    waiting_per_owner_max: int = 250
    """Previews of one owner that wait for a VM."""
    waiting_max: int = 400
    """Previews of all that wait for a VM; at most the pool's claims_max. Beyond what a pool serves in `acquire_limit_s`, a
    refusal at once is better than one after a wait."""
    log_rate_bytes: int = 262_144
    """Bytes of output a second that are kept of one job over time; more is left out, and a line says so."""
    log_burst_bytes: int = 4 * 1024 * 1024
    """Bytes of output of one job that are kept however fast they come: a package manager's whole report."""
    default_node_major: int = 24
    """The Node that VMs have; another one is fetched where a project asks for it."""
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
