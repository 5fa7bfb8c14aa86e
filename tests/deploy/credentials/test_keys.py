"""Keys on disk: made once, private, replaced on wish, told to `nats`; and never printed."""

import json
import stat
from pathlib import Path

import pytest

from deploy.local.errors import LauncherError
from deploy.local.paths import Home
from deploy.nats.authorization import User
from deploy.nats.contexts import contexts_folder, write_contexts
from deploy.nats.identities import make_identities, new_seed, public_key, replace_seeds, seed_environment, seed_file
from deploy.nats.permissions import IDENTITIES
from deploy.nats.rotation import rotate_files
from shared.errors import Invalid
from shared.jetstream.credentials import seed_from, seed_from_environment


def test_keys_are_made_once_and_private(home: Home) -> None:
    """A second run has the same keys; each file is the user's alone, and each identity has another key."""
    first = make_identities(home.nats_seeds)

    assert make_identities(home.nats_seeds) == first
    assert set(first) == set(IDENTITIES)
    assert len(set(first.values())) == len(IDENTITIES)
    assert all(key.startswith("U") for key in first.values())
    files = list(home.nats_seeds.iterdir())
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE(home.nats_seeds.stat().st_mode) == 0o700


def test_rotation_changes_every_key(home: Home) -> None:
    """What was known before is of no use afterwards, and what is told is what is on disk."""
    before = make_identities(home.nats_seeds)
    after = rotate_files(home.nats_seeds)

    assert set(before.values()) & set(after.values()) == set()
    assert make_identities(home.nats_seeds) == after


def test_a_damaged_key_is_an_error_without_the_key(home: Home) -> None:
    """The error names the file and what to do; what the file holds is not repeated."""
    make_identities(home.nats_seeds)
    replace_seeds(home.nats_seeds, {"pool": "SUADAMAGED"})

    with pytest.raises(LauncherError) as caught:
        make_identities(home.nats_seeds)
    assert caught.value.code == "seed_wrong"
    assert str(seed_file(home.nats_seeds, "pool")) in caught.value.message
    assert "SUADAMAGED" not in f"{caught.value.message} {caught.value.hint} {caught.value.__cause__}"


def test_a_folder_that_is_a_file_is_an_error(home: Home) -> None:
    """Nothing is overwritten."""
    home.nats_seeds.write_text("a file")

    with pytest.raises(LauncherError) as caught:
        make_identities(home.nats_seeds)
    assert caught.value.code == "identities_not_writable"


def test_a_seed_comes_from_its_file_or_the_environment(tmp_path: Path) -> None:
    """The file goes before; a missing one and a wrong one are errors that do not repeat the seed."""
    seed, other = new_seed(), new_seed()
    path = tmp_path / "pool.nk"
    path.write_text(f"{seed}\n")

    assert seed_from(str(path), other) == seed
    assert seed_from_environment({"DRAPE_NATS_NKEY_SEED": other}) == other
    assert seed_from_environment({}) == ""
    with pytest.raises(Invalid) as missing:
        seed_from(str(tmp_path / "none.nk"), "")
    assert missing.value.code == "seed_unreadable"
    for wrong in (seed[:-1], public_key(seed), "SU rubbish"):
        with pytest.raises(Invalid) as caught:
            seed_from("", wrong)
        assert caught.value.code == "seed_wrong"
        assert wrong not in f"{caught.value.message} {caught.value.hint}"


def test_each_process_gets_its_own_key_only(home: Home) -> None:
    """On our own server; on another's, what address or environment say goes before."""
    assert seed_environment(home.nats_seeds, "pool", None, {}) == {}
    make_identities(home.nats_seeds)
    own = {"DRAPE_NATS_SEED_FILE": str(seed_file(home.nats_seeds, "pool")), "DRAPE_NATS_NKEY_SEED": ""}

    assert seed_environment(home.nats_seeds, "pool", None, {"DRAPE_NATS_NKEY_SEED": "theirs"}) == own
    assert seed_environment(home.nats_seeds, "pool", "nats://there:4222", {}) == own
    assert seed_environment(home.nats_seeds, "pool", "nats://user:word@there:4222", {}) == {}
    assert seed_environment(home.nats_seeds, "pool", "nats://there:4222", {"DRAPE_NATS_SEED_FILE": "theirs"}) == {}
    operators = {"DRAPE_NATS_SEED_FILE": str(seed_file(home.nats_seeds, "operator"))}
    assert seed_environment(home.nats_seeds, "pool", "nats://there:4222", operators) == own


def test_contexts_name_files_and_hold_no_secret(home: Home, tmp_path: Path) -> None:
    """XDG_CONFIG_HOME says where, unless it is relative; the seed itself is in neither file."""
    make_identities(home.nats_seeds)
    folder = contexts_folder({"XDG_CONFIG_HOME": str(tmp_path), "HOME": "/nowhere"})
    written = write_contexts(folder, home.nats_seeds, "nats://127.0.0.1:4222")

    assert [path.name for path in written] == ["drape.json", "drape-observer.json"]
    assert folder == tmp_path / "nats" / "context"
    for path, identity in zip(written, ("operator", "observer"), strict=True):
        told = json.loads(path.read_text())
        assert (told["nkey"], told["inbox_prefix"]) == (str(seed_file(home.nats_seeds, identity)), f"_INBOX_{identity}")
        assert seed_file(home.nats_seeds, identity).read_text() not in path.read_text()
    assert contexts_folder({"XDG_CONFIG_HOME": "relative", "HOME": "/h"}) == Path("/h/.config/nats/context")


def test_a_user_does_not_show_its_password() -> None:
    """What may end up in a log or a traceback."""
    assert "hidden" not in repr(User("operator", password="hidden"))
