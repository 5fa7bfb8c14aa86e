"""Which edits a running dev server can't take in by itself. Pure."""

from collections.abc import Collection

import pathspec

from services.orchestrator.model import Found
from services.orchestrator.rules.detection import Detection


def needs_restart(found: Found, now: Detection | None, changed: Collection[str]) -> bool:
    """True where the install or the dev server has to begin anew.

    `now`: what detection says of the newest files, None where it can't say (a package.json half-way through an edit).
    `changed`: paths that were written or deleted since the VM's last version.
    """
    if now is not None and not same_jobs(found, now):
        return True
    return any(matches_any(path, found.app_root, found.restart_on) for path in changed)


def same_jobs(one: Found, other: Found | Detection) -> bool:
    """Whether install and dev server are the same for both."""
    return _job_inputs(one) == _job_inputs(other)


def _job_inputs(each: Found | Detection) -> tuple[object, ...]:
    return (
        each.deps,
        each.app_root,
        each.install_root,
        each.dev_command,
        each.dev_env,
        each.install_command,
        each.install_env,
        each.ready_path,
    )


def matches_any(path: str, app_root: str, globs: Collection[str]) -> bool:
    """Whether a path of the project matches one of these globs (as .gitignore writes them) below the app's folder."""
    prefix = "" if app_root == "." else f"{app_root}/"
    if not path.startswith(prefix):
        return False
    return bool(pathspec.GitIgnoreSpec.from_lines(globs).match_file(path.removeprefix(prefix)))
