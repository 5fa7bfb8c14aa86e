"""The home's folders, its secrets and its logs."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.local import logs
from deploy.local.errors import LauncherError
from deploy.local.paths import Home
from deploy.local.secrets import load_or_make


def mode_of(path: Path) -> int:
    """The permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def test_home_comes_from_the_environment_else_from_the_users_data_folder() -> None:
    """DRAPE_HOME wins; a relative XDG_DATA_HOME is ignored as its specification asks."""
    assert Path("/x/y") == Home.from_env({"DRAPE_HOME": "/x/y", "HOME": "/h"}).root
    by_platform = Home.from_env({"HOME": "/h", "XDG_DATA_HOME": "not/absolute"}).root

    assert by_platform.name == "drape"
    assert by_platform.is_relative_to("/h")


def test_created_home_is_private_and_a_folder_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    """What we make is 0700, but a shared folder named as DRAPE_HOME is not taken from its other users."""
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    Home(shared).create()
    Home(tmp_path / "own").create()

    assert mode_of(shared) == 0o755
    assert {0o700} == {mode_of(path) for path in shared.iterdir()}
    assert mode_of(tmp_path / "own") == 0o700


def test_home_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    """A path below a file is refused with a code, the path and a hint."""
    (tmp_path / "file").write_text("")

    with pytest.raises(LauncherError, match="file") as caught:
        Home(tmp_path / "file" / "home").create()

    assert caught.value.code == "home_not_writable"
    assert "DRAPE_HOME" in caught.value.hint


def test_secrets_are_made_once_even_by_many_at_once(home: Home) -> None:
    """Racing starts agree on the same secrets, private ones, and leave no draft behind."""
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: load_or_make(home), range(32)))

    assert all(made[0] == other for other in made)
    assert len(made[0].platform) == 64
    assert sorted(os.listdir(home.secrets)) == ["nats_password", "platform", "postgres_password"]
    assert {0o600} == {mode_of(path) for path in home.secrets.iterdir()}


def test_secrets_do_not_show_in_their_repr(home: Home) -> None:
    """A struct that ends up in a log gives nothing away."""
    secrets = load_or_make(home)

    assert secrets.platform not in repr(secrets)


def test_empty_secret_is_an_error_and_not_an_empty_password(home: Home) -> None:
    """A damaged secret is named and never used or replaced."""
    (home.secrets / "platform").write_text("")

    with pytest.raises(LauncherError) as caught:
        load_or_make(home)

    assert caught.value.code == "secret_unreadable"


def test_log_is_cut_under_a_writer_that_keeps_it_open(tmp_path: Path) -> None:
    """Rotation keeps so many old logs, and a writer in append mode goes on at the new start."""
    path = tmp_path / "x.log"
    limits = logs.LogLimits(bytes_max=10, keep_count=2)
    writer = logs.open_for_append(path)
    for generation in range(4):
        os.write(writer, f"generation {generation}\n".encode())
        assert logs.rotate(path, limits)
    os.write(writer, b"now\n")
    os.close(writer)

    assert not logs.rotate(path, limits)
    assert path.read_bytes() == b"now\n"
    assert (tmp_path / "x.log.1").read_text() == "generation 3\n"
    assert sorted(os.listdir(tmp_path)) == ["x.log", "x.log.1", "x.log.2"]
