"""What users were told had been done, held against the log."""

from collections import Counter
from collections.abc import Iterable, Sequence

from deploy.simulation.users import Acknowledged
from shared.codec import Recorded
from shared.commands import (
    CreateProject,
    DeleteProject,
    PreviewReply,
    ProjectReply,
    RecordFiles,
    RequestPreview,
    StopPreview,
)
from shared.events import (
    PreviewFailed,
    PreviewRequested,
    PreviewRestarted,
    PreviewStopped,
    ProjectCreated,
    ProjectDeleted,
    ProjectFilesChanged,
)


def broken_promises(told: Iterable[Acknowledged], records: Sequence[Recorded]) -> list[str]:
    """Acknowledged commands whose event is not in the log once, up to the sequence that the answer named."""
    facts = Counter(_fact(recorded) for recorded in records)
    broken: list[str] = []
    for each in told:
        match each.command, each.reply:
            case CreateProject(), ProjectReply(project_id=project_id):
                wanted = ("created", project_id, 0)
            case RecordFiles(), ProjectReply(project_id=project_id, files_version=version):
                wanted = ("files", project_id, version)
            case DeleteProject(project_id=project_id), _:
                wanted = ("deleted", project_id, 0)
            case RequestPreview(), PreviewReply(preview_id=preview_id):
                wanted = ("requested", preview_id, 0)
            case StopPreview(preview_id=preview_id), PreviewReply():
                if not _was_over(preview_id, each.since, each.reply.seq, records):
                    broken.append(f"{preview_id} was said to be stopped at seq {each.reply.seq}, and was not")
                continue
            case _:
                continue
        if facts[wanted] != 1:
            broken.append(
                f"{type(each.command).__name__} was acknowledged: {wanted} is in the log {facts[wanted]} times"
            )
    return broken


def _fact(recorded: Recorded) -> tuple[str, str, int]:
    match recorded.event:
        case ProjectCreated(project_id=project_id):
            return ("created", project_id, 0)
        case ProjectFilesChanged(project_id=project_id, files_version=version):
            return ("files", project_id, version)
        case ProjectDeleted(project_id=project_id):
            return ("deleted", project_id, 0)
        case PreviewRequested(preview_id=preview_id):
            return ("requested", preview_id, 0)
        case _:
            return ("", "", 0)


def _was_over(preview_id: str, since: int, seq: int, records: Sequence[Recorded]) -> bool:
    """Whether it had ended at some moment between the asking and the answer; others may have begun it anew."""
    over = False
    for recorded in records[:seq]:
        match recorded.event:
            case PreviewRequested(preview_id=which) | PreviewRestarted(preview_id=which) if which == preview_id:
                if over and recorded.seq > since:
                    return True
                over = False
            case PreviewFailed(preview_id=which) | PreviewStopped(preview_id=which) if which == preview_id:
                over = True
    return over
