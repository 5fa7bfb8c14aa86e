"""What is asked of the pool about the dependencies in a VM, and what it answers.

Asked as queries (`restore_deps`, `publish_deps`): a cache is no fact, so nothing of it is in the log but what it did for
a preview.
"""

import msgspec

from shared.ids import PreviewId, ProjectId, VmId


class DepsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`key`: the fingerprint of all that the project says about its install, to which the pool adds owner and platform;
    empty: what it gives can't be kept, only what the package manager has fetched can. `manager`: its name.

    `trees`: folders of the project that are kept under the key in place of an install, a framework's build cache; what is
    published later replaces what was there. They are `project_id`'s alone, and go with it.

    `unchanged_since` (seconds, UTC): an install that the project has changed after that is not kept; 0: it is not looked at.
    """

    vm_id: VmId
    preview_id: PreviewId
    key: str
    manager: str = ""
    trees: tuple[str, ...] = ()
    project_id: ProjectId = ""
    unchanged_since: float = 0.0


class DepsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`done`: the dependencies are where they belong. Else `code` says why not; `store`: at least what the package
    manager had fetched for this owner is. Times in seconds."""

    done: bool
    code: str = ""
    store: bool = False
    files: int = 0
    bytes: int = 0
    took_s: float = 0.0
