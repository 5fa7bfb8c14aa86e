"""Personal texts: which they are, that only their project's key opens them, and that nothing else passes for one."""

from typing import Any

import msgspec
import pytest

from shared.commands import RequestPreview
from shared.errors import Invalid, Unavailable
from shared.events import EVENT_TYPES, AppChoice, Event, PreviewFailed, ProjectCreated, ProjectDetected
from shared.memory import MemoryBroker
from shared.memory.keys import MemoryKeys
from shared.sealed import CHOICE_FIELDS, ERASED, PERSONAL, PLAIN, is_sealed, opened, projects_in
from shared.seals import CLOSED, KEYS_CACHED_MAX, Seals
from tests.shared.examples import EXAMPLES, PROJECT

SECRET, OTHER = "1" * 64, "01m85ea2zq5bq7f2x9s1v4t8nz"

NOT_PERSONAL: dict[str, set[str]] = {
    "ProjectCreated": {"owner"},
    "ProjectFilesChanged": {"manifest"},
    "ProjectEnvChanged": {"env"},
    "PreviewRequested": {"owner", "region", "image"},
    "PreviewRestarted": {"reason"},
    "ProjectDetected": {"framework", "version", "package_manager", "package_manager_version", "node_version", "deps"},
    "PreviewWarningRaised": {"code", "version", "link"},
    "FilesSynced": {"restored"},
    "InstallStarted": {"job_id"},
    "InstallSkipped": {"reason", "key"},
    "InstallFailed": {"code", "fingerprint"},
    "DevServerStarted": {"job_id"},
    "DevServerReady": {"host"},
    "DevServerExited": {"signal", "code", "fingerprint"},
    "PreviewReady": {"url", "install", "steps"},
    "HmrProbed": {"state"},
    "PreviewResumed": {"reason"},
    "PreviewFailed": {"code", "step", "fingerprint"},
    "PreviewStopped": {"reason"},
}
"""Fields of projects' and previews' events that hold texts and are nobody's: words of ours, ids, versions, fingerprints."""
IDS = {"project_id", "preview_id"}


class World:
    """A store of keys, and replicas that ask it."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()

    def seals(self, secret: str = SECRET) -> Seals:
        return Seals(MemoryKeys(self.broker), secret)


def created(name: str = "Ann's shop") -> ProjectCreated:
    return ProjectCreated(project_id=PROJECT, owner="ann", name=name)


@pytest.mark.parametrize("kind", [each for each in EVENT_TYPES.values() if each.aggregate in ("project", "preview")])
def test_each_text_is_decided_on(kind: type[Event]) -> None:
    """A field that is added must be put into one of the two tables."""
    texts = {
        each.name for each in msgspec.structs.fields(kind) if "str" in str(each.type) or "AppChoice" in str(each.type)
    }
    texts |= {each.name for each in msgspec.structs.fields(kind) if "Literal" in str(each.type)}
    personal, plain = set(PERSONAL.get(kind, ())), NOT_PERSONAL.get(kind.__name__, set())
    assert texts - IDS == personal | plain
    assert not personal & plain


@pytest.mark.parametrize("name", [kind.__name__ for kind in PERSONAL if kind.__name__ in EVENT_TYPES])
async def test_every_personal_text_is_sealed_and_opened(name: str) -> None:
    event, world = EXAMPLES[name], World()
    sealed = await world.seals().seal(event, PROJECT)
    raw = msgspec.json.encode(sealed).decode()
    for field in PERSONAL[type(event)]:
        leaves = texts_of(getattr(sealed, field))
        assert leaves
        assert all(is_sealed(text) or text in PLAIN for text in leaves)
        for text in texts_of(getattr(event, field)):
            assert len(text) < 8 or text not in raw  # a short one may be there by chance
    assert type(msgspec.json.decode(raw.encode(), type=type(event))) is type(event)
    assert await world.seals().opened(sealed) == event


def texts_of(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, AppChoice):
        return [getattr(value, name) for name in CHOICE_FIELDS]
    if isinstance(value, dict):
        return [*map(str, value), *map(str, value.values())]
    return [text for each in value for text in texts_of(each)]


async def test_the_same_text_is_the_same_sealed() -> None:
    """So that a command which is tried again makes the same event; under another project's key it is another."""
    world = World()
    one, two = await world.seals().seal(created(), PROJECT), await world.seals().seal(created(), PROJECT)
    assert one == two
    assert (await world.seals().seal(created(), OTHER)).name != one.name
    assert len(world.broker.keys) == 2


async def test_what_is_sealed_is_not_sealed_twice() -> None:
    """Events repeat what the state holds."""
    seals = World().seals()
    once = await seals.seal(EXAMPLES["ProjectDetected"], PROJECT)
    assert await seals.seal(once, PROJECT) == once
    failed = await seals.seal(EXAMPLES["PreviewFailed"], PROJECT)
    assert await seals.seal(failed, PROJECT) == failed


@pytest.mark.parametrize("name", ["sealed.v1.x.y", f"sealed.v1.{PROJECT}.AAAA", f"sealed.v1.{OTHER}.AAAA", "sealed"])
async def test_a_text_that_only_looks_sealed_is_sealed(name: str) -> None:
    seals = World().seals()
    sealed = await seals.seal(created(name), PROJECT)
    assert sealed.name != name
    assert (await seals.opened(sealed)).name == name


async def test_another_project_s_text_opens_nothing() -> None:
    """Neither as it is, nor with the name of its project changed."""
    seals = World().seals()
    theirs = (await seals.seal(created("theirs"), OTHER)).name
    mine = await seals.seal(created(theirs), PROJECT)
    assert (await seals.opened(mine)).name == theirs
    moved = theirs.replace(OTHER, PROJECT)
    assert await seals.opened(moved) == ERASED


@pytest.mark.parametrize("text", sorted(PLAIN))
async def test_defaults_stay(text: str) -> None:
    world = World()
    event = await world.seals().seal(created(text), PROJECT)
    assert event.name == text


async def test_a_message_without_personal_texts_needs_no_key() -> None:
    world = World()
    for message in (EXAMPLES["VmBooted"], RequestPreview(project_id=PROJECT, owner="ann")):
        assert await world.seals("").seal(message, PROJECT) is message
    assert world.broker.keys == {}


async def test_after_the_erasure_everything_reads_erased() -> None:
    """To a replica that has the key, to one that asks for it, and in every shape."""
    world = World()
    old, new = world.seals(), world.seals()
    sealed = await old.seal(EXAMPLES["ProjectDetected"], PROJECT)
    assert isinstance(sealed, ProjectDetected)
    await new.opened(sealed)
    await old.erase(PROJECT)
    assert world.broker.keys == {PROJECT: b""}
    new.forget(PROJECT)
    for seals in (old, new, world.seals()):
        shown = await seals.opened(sealed)
        assert (shown.app_root, shown.dev_command, shown.dev_env) == (ERASED, (ERASED,), {ERASED: ""})
        assert shown.framework == "vite"
        again = await seals.seal(created("late"), PROJECT)
        assert again.name == ERASED
    await old.erase(PROJECT)
    assert world.broker.keys == {PROJECT: b""}


def failed_with(message: str) -> PreviewFailed:
    """A failure as a decision gives it."""
    return PreviewFailed(preview_id="p", attempt=1, code="install_failed", message=message, hint="", step="installing")


async def test_failures_with_the_same_cause_have_the_same_fingerprint() -> None:
    """Whoever's they are, and whether the message was sealed already, as it comes from the state; with another secret it is
    another, so that nobody can try out which message it is of."""
    world = World()
    seals = world.seals()
    mine = await seals.seal(failed_with("Port 5173 is taken by 'shop'."), PROJECT)
    theirs = await seals.seal(failed_with("Port 5174 is taken by 'desk'."), OTHER)
    assert mine.message != theirs.message
    assert mine.fingerprint == theirs.fingerprint
    assert len(mine.fingerprint) == 16
    again = await seals.seal(failed_with(mine.message), PROJECT)
    assert again == mine
    assert (await seals.seal(failed_with("There is no package left-pat."), PROJECT)).fingerprint != mine.fingerprint
    elsewhere = await World().seals("2" * 64).seal(failed_with("Port 5173 is taken by 'shop'."), PROJECT)
    assert elsewhere.fingerprint != mine.fingerprint
    await seals.erase(PROJECT)
    assert (await seals.seal(failed_with("Port 5173 is taken by 'shop'."), PROJECT)).fingerprint == ""


async def test_without_a_project_nothing_is_said() -> None:
    """A report that comes after the project's end."""
    event = await World().seals().seal(EXAMPLES["PreviewFailed"], "")
    assert isinstance(event, PreviewFailed)
    assert (event.message, event.hint) == (ERASED, ERASED)
    assert event.choices == (AppChoice(path=ERASED, framework="vite", name=ERASED),)


async def test_a_copy_of_the_keys_is_of_no_use() -> None:
    """Without the platform's secret, or with another."""
    world = World()
    sealed = await world.seals().seal(created(), PROJECT)
    assert b"shop" not in world.broker.keys[PROJECT]
    assert (await world.seals("").opened(sealed)).name == CLOSED
    with pytest.raises(Invalid, match="can't be unwrapped") as error:
        await world.seals("2" * 64).opened(sealed)
    assert SECRET not in str(error.value)
    with pytest.raises(Invalid, match="DRAPE_SECRET"):
        await world.seals("").seal(created(), PROJECT)


async def test_two_replicas_make_one_key() -> None:
    """The second finds the first one's: `create` says who was first."""
    world = World()
    one, two = world.seals(), world.seals()
    keys = MemoryKeys(world.broker)
    first = await one.seal(created(), PROJECT)
    assert not await keys.create(PROJECT, b"another")
    assert await two.seal(created(), PROJECT) == first


async def test_a_store_that_is_away_loses_nothing() -> None:
    """What is known is opened; the rest is `Unavailable`, and stays sealed where one can't wait."""
    world = World()
    knows, new = world.seals(), world.seals()
    sealed = await knows.seal(created(), PROJECT)
    world.broker.connected = False
    assert (await knows.opened(sealed)).name == "Ann's shop"
    with pytest.raises(Unavailable):
        await new.opened(sealed)
    assert new.opened_now(sealed) == sealed
    assert new.opened_now(sealed, CLOSED).name == CLOSED
    with pytest.raises(Unavailable):
        await new.seal(created(), OTHER)


async def test_a_key_that_is_asked_for_too_early_is_made_later() -> None:
    """That there is none yet is not remembered as an erasure."""
    world = World()
    early = world.seals()
    assert await early.opened(f"sealed.v1.{PROJECT}.AAAA") == ERASED
    sealed = await early.seal(created(), PROJECT)
    assert (await world.seals().opened(sealed)).name == "Ann's shop"


async def test_keys_in_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEYS_CACHED_MAX == 10_000
    monkeypatch.setattr("shared.seals.KEYS_CACHED_MAX", 3)
    seals = World().seals()
    sealed = [await seals.seal(created(), f"project-{number}") for number in range(10)]
    assert len(seals._known) == 3
    assert {(await seals.opened(each)).name for each in sealed} == {"Ann's shop"}


def test_only_whole_texts_of_our_form_are_sealed_ones() -> None:
    """A project may print anything."""
    assert is_sealed(f"sealed.v1.{PROJECT}.AbC_-=")
    for text in (
        "sealed.v1.>.AA",
        "sealed.v1..AA",
        f" sealed.v1.{PROJECT}.AA",
        f"sealed.v1.{PROJECT}.AA x",
        "sealed.v1.a.b.c",
    ):
        assert not is_sealed(text)
        assert opened([{"a": text}], lambda _: 1 / 0) == [{"a": text}]
    assert projects_in({"a": [f"sealed.v1.{PROJECT}.AA"], "b": (f"sealed.v1.{OTHER}.AA", 1)}) == {PROJECT, OTHER}
