"""A run's outcome as a page for people. Pure."""

from collections.abc import Iterator
from datetime import UTC, datetime

from shared.events import AlertCleared, AlertRaised
from tests.evidence.alarms import HOW
from tests.evidence.running import Outcome


def page(outcome: Outcome) -> str:
    """Markdown."""
    return "\n".join([*_lines(outcome), ""])


def _lines(outcome: Outcome) -> Iterator[str]:
    yield "# Evidence"
    yield ""
    yield (
        f"`make evidence`: {outcome.previews} previews on a platform of its own, {sum(outcome.failed.values())} of them made "
        f"to fail; {outcome.events[-1].seq} events; {outcome.took_s / 60:.0f} minutes."
    )
    yield ""
    yield f"**{len(outcome.wrong)} things are wrong.**" if outcome.wrong else "**All is as it must be.**"
    yield from (f"- {each}".replace("\n", " ") for each in outcome.wrong)
    yield from _tree_lines(outcome)
    yield from _figure_lines(outcome)
    if outcome.alerts:
        yield from _alert_lines(outcome)
    if outcome.commands:
        yield from ("", "## Runbook", "", f"{outcome.commands} commands were run; runbook.txt has what each printed.")


def _tree_lines(outcome: Outcome) -> Iterator[str]:
    sound = sum(not each.wrong for each in outcome.trees)
    yield from ("", "## Traces", "")
    yield f"The collector received {outcome.spans} spans. {sound} of {len(outcome.trees)} previews are one whole tree."
    yield from ("", "| Spans of | Received |", "|---|---|")
    yield from (f"| {name} | {count} |" for name, count in sorted(outcome.services.items()))
    yield from ("", "| Ended | Previews | Spans in a tree | Services |", "|---|---|---|---|")
    kinds = sorted({(each.ended, each.services) for each in outcome.trees})
    for ended, services in kinds:
        spans = [each.spans for each in outcome.trees if (each.ended, each.services) == (ended, services)]
        names = ", ".join(each.removeprefix("drape-") for each in services)
        yield f"| {ended} | {len(spans)} | {min(spans)} to {max(spans)} | {names} |"


def _figure_lines(outcome: Outcome) -> Iterator[str]:
    previews, total = outcome.stats["previews"], outcome.costs["total"]
    yield from ("", "## Figures", "")
    yield f"- `/metrics/stats`: {previews['count']} attempts, {previews['success']} ready, {previews['failed']} failed."
    yield f"- `drape stats --recount`: {outcome.recount}"
    yield f"- `/api/costs`: {total['running_s']:.0f} s of VMs for previews, {total['amount']:.2f} {outcome.costs['currency']}."
    yield from ("", "| Error | Step | Fingerprint | Counted |", "|---|---|---|---|")
    yield from (
        f"| {each['code']} | {each['step']} | {each['fingerprint']} | {each['count']} |"
        for each in sorted(outcome.errors, key=lambda each: (each["code"], each["fingerprint"]))
    )


def _alert_lines(outcome: Outcome) -> Iterator[str]:
    told = {(each["type"], each["alert"]): each["at"] for each in outcome.notices}
    at: dict[tuple[str, str], str] = {}
    for each in outcome.events:
        if isinstance(each.event, AlertRaised | AlertCleared):
            at[each.type, each.event.alert] = f"{_time(each.meta.at)} (#{each.seq})"
    yield from ("", "## Alerts", "", "Each as events (UTC, sequence in the log) and as notices at a webhook.", "")
    yield from ("| Alert | Raised | Cleared | Notices | How |", "|---|---|---|---|---|")
    for name, how in HOW.items():
        notices = sum((f"alert_{kind}", name) in told for kind in ("raised", "cleared"))
        raised, cleared = at.get(("AlertRaised", name), "no"), at.get(("AlertCleared", name), "no")
        yield f"| {name} | {raised} | {cleared} | {notices} | {how} |"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")
