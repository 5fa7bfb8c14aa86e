"""What users were told: every acknowledgement that a client got, to be found in the log afterwards."""

import msgspec

from shared.codec import Recorded
from shared.events import (
    PreviewFailed,
    PreviewRequested,
    PreviewStopped,
    ProjectCreated,
    ProjectFilesChanged,
)


class Ledger(msgspec.Struct, kw_only=True):
    """Acknowledged by a 2xx answer; what was sent and not answered is not in it, and may be in the log or not.

    `versions`: (project, version of its files); `tokens`: of which a project's page has to hold one; `wrong_pages`: pages that
    held another's.
    """

    projects: list[str] = []
    versions: list[tuple[str, int]] = []
    previews: list[str] = []
    stops: list[str] = []
    tokens: dict[str, list[str]] = {}
    wrong_pages: list[str] = []
    pages: int = 0
    ready: int = 0
    failed: dict[str, int] = {}
    refused: dict[str, int] = {}

    def note(self, counts: dict[str, int], name: str) -> None:
        counts[name] = counts.get(name, 0) + 1

    def missing(self, records: list[Recorded]) -> list[str]:
        """What was acknowledged and is not in the log."""
        projects, versions, previews, ended = set[str](), set[tuple[str, int]](), set[str](), set[str]()
        for recorded in records:
            match recorded.event:
                case ProjectCreated(project_id=project_id):
                    projects.add(project_id)
                case ProjectFilesChanged(project_id=project_id, files_version=version):
                    versions.add((project_id, version))
                case PreviewRequested(preview_id=preview_id):
                    previews.add(preview_id)
                case PreviewStopped(preview_id=preview_id) | PreviewFailed(preview_id=preview_id):
                    ended.add(preview_id)
        return [
            *(
                f"project {each} was acknowledged and is not in the log"
                for each in self.projects
                if each not in projects
            ),
            *(
                f"files {each} were acknowledged and are not in the log"
                for each in self.versions
                if each not in versions
            ),
            *(
                f"preview {each} was acknowledged and is not in the log"
                for each in self.previews
                if each not in previews
            ),
            *(f"the stop of {each} was acknowledged and is not in the log" for each in self.stops if each not in ended),
        ]
