"""Settings from a file: what goes before what, and everything that a file can get wrong."""

import logging
import os
import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as explored
from hypothesis import strategies as st

from services.gateway.config import GatewayConfig
from services.pool.config import PoolConfig
from shared.config_file import SECRET_BYTES_MAX, read
from shared.errors import DrapeError, Invalid
from shared.setting_types import Secret
from shared.settings import Settings, check, common, from_env, unknown_variables

POOL: Settings = {"DRAPE_POOL": PoolConfig}
SECRET = "s3cret-of-the-platform"


class Size(msgspec.Struct, frozen=True):
    """One of several."""

    memory_mb: int
    tags: tuple[str, ...] = ()


class Below(msgspec.Struct, frozen=True, kw_only=True):
    """Settings whose prefix is that of others and more; nested ones; and a secret with a name of its own."""

    sizes: dict[str, Size] = {}
    api_token: Annotated[str, msgspec.Meta(extra={"secret": True, "variable": "CLOUD_TOKEN"})] = ""
    password: Secret = ""


def env_of(folder: Path, text: str, **variables: str) -> dict[str, str]:
    path = folder / "drape.toml"
    path.write_text(text, "utf-8")
    path.chmod(0o600)
    return {"DRAPE_CONFIG": str(path), **variables}


def refusal(env: dict[str, str], settings: Settings = POOL) -> Invalid:
    """What a service with these settings says of it."""
    try:
        for prefix, kind in settings.items():
            from_env(kind, prefix, env)
        common(env)
        check(settings, env)
    except Invalid as error:
        assert error.hint
        return error
    raise AssertionError("nothing was refused")


def test_the_environment_goes_before_the_file_and_the_file_before_the_default(tmp_path: Path) -> None:
    text = '[common]\nhealth_port = 1\nnats_url = "nats://f:1"\n[pool]\ntarget = 1\nmaximum = 2\nboot_timeout_s = 3\ncache = false'
    env = env_of(tmp_path, text, DRAPE_POOL_TARGET="4", NATS_URL="nats://e:1")
    pool = from_env(PoolConfig, "DRAPE_POOL", env)

    assert (pool.target, pool.maximum, pool.boot_timeout_s, pool.cache) == (4, 2, 3.0, False)
    assert pool.minimum == PoolConfig().minimum
    assert (common(env).drape_health_port, common(env).nats_url) == (1, "nats://e:1")
    check(POOL, env)


def test_an_empty_variable_leaves_it_to_the_file(tmp_path: Path) -> None:
    env = env_of(tmp_path, "[pool]\ntarget = 1", DRAPE_POOL_TARGET="")
    assert from_env(PoolConfig, "DRAPE_POOL", env).target == 1


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("[pol]\ntarget = 1", "config_unknown", ("[pol]", "Did you mean pool?")),
        ("[pool]\ntargt = 1", "config_unknown", ("targt in [pool]", "Did you mean target?")),
        ("[pool.dokcer]\nx = 1", "config_unknown", ("dokcer in [pool]",)),
        ("[common]\ntarget = 1", "config_unknown", ("target in [common]",)),
        ("drape_pool_target = 1", "config_unknown", ("drape_pool_target",)),
        ("pool = 1", "config_wrong", ("[pool]",)),
        ("[[pool]]\ntarget = 1", "config_wrong", ("[pool]",)),
        ('[pool]\ntarget = "1"', "bad_setting", ("target in [pool]", "Expected `int | null`")),
        ("[pool]\ncache = 1", "bad_setting", ("cache in [pool]",)),
        ("[pool]\nboot_timeout_s = 1979-05-27", "bad_setting", ("boot_timeout_s in [pool]",)),
        ('[pool]\nprovider = "heroku"', "bad_setting", ("provider in [pool]",)),
        ("[common]\nsecret = 1", "bad_setting", ("secret in [common]",)),
        ("[common]\nsecret_file = 1", "bad_setting", ("secret_file in [common]",)),
        ('[common]\nsecret = "x"\nsecret_file = "y"', "bad_setting", ("both secret and secret_file",)),
        ('[common]\nsecret_file = "/no/such/file"', "secret_unreadable", ("secret_file in [common]", "/no/such/file")),
        ("[pool\ntarget = 1", "config_wrong", ("line 1",)),
        ("[pool]\ntarget = 1\ntarget = 2", "config_wrong", ("TOML",)),
        ("[pool]\ntarget = ", "config_wrong", ("TOML",)),
    ],
)
def test_what_a_file_gets_wrong_is_said_with_its_place(
    tmp_path: Path, text: str, code: str, words: tuple[str, ...]
) -> None:
    env = env_of(tmp_path, text)
    error = refusal(env)

    assert error.code == code
    assert env["DRAPE_CONFIG"] in error.message
    assert [word for word in words if word not in error.message] == []


def test_a_file_that_is_not_there_or_no_text_is_said(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe[pool]")
    for path in (tmp_path / "none.toml", tmp_path, binary):
        error = refusal({"DRAPE_CONFIG": str(path)})
        assert (error.code, str(path) in error.message) == ("config_unreadable", True)


def test_other_services_tables_are_theirs_to_refuse(tmp_path: Path) -> None:
    env = env_of(tmp_path, "[gateway]\nprt = 1")
    check(POOL, env)
    assert refusal(env, {"DRAPE_GATEWAY": GatewayConfig}).code == "config_unknown"


def test_tables_in_tables_are_settings_of_a_longer_prefix_or_nested_values(tmp_path: Path) -> None:
    settings: Settings = {**POOL, "DRAPE_POOL_CLOUD": Below}
    text = '[pool]\ntarget = 1\n[pool.cloud]\napi_token = "t"\n[pool.cloud.sizes.small]\nmemory_mb = 512\ntags = ["a"]'
    env = env_of(tmp_path, text)
    check(settings, env)
    cloud = from_env(Below, "DRAPE_POOL_CLOUD", env)

    assert (cloud.api_token, cloud.sizes) == ("t", {"small": Size(512, ("a",))})
    assert from_env(PoolConfig, "DRAPE_POOL", env).target == 1
    json = {"DRAPE_POOL_CLOUD_SIZES": '{"large":{"memory_mb":4096}}', "CLOUD_TOKEN": "of the environment"}
    cloud = from_env(Below, "DRAPE_POOL_CLOUD", {**env, **json})
    assert (cloud.api_token, cloud.sizes) == ("of the environment", {"large": Size(4096)})
    for wrong in ("{", "[]", '{"large":{"memory_mb":"much"}}', "\udcff"):
        error = refusal({"DRAPE_POOL_CLOUD_SIZES": wrong}, settings)
        assert "DRAPE_POOL_CLOUD_SIZES" in error.message
    error = refusal(env_of(tmp_path, "[pool.cloud.sizes.small]\nmemory = 1"), settings)
    assert (error.code, "sizes in [pool.cloud]" in error.message) == ("bad_setting", True)


def test_a_secret_may_be_in_a_file_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    by_variable = common({"DRAPE_SECRET_FILE": str(file), "DATABASE_URL_FILE": str(file)})
    by_key = common(env_of(tmp_path, f'[common]\nsecret_file = "{file}"'))
    env = env_of(tmp_path, f'[common]\nsecret_file = "{tmp_path / "none"}"', DRAPE_SECRET="of the environment")

    assert by_variable.drape_secret == by_variable.database_url == by_key.drape_secret == SECRET
    assert common(env).drape_secret == "of the environment"
    assert from_env(GatewayConfig, "DRAPE_GATEWAY", {"DRAPE_API_TOKENS_FILE": str(file)}).api_tokens == SECRET


def test_a_secret_that_cannot_be_had_is_said_without_it(tmp_path: Path) -> None:
    file = tmp_path / "secret"

    def error_of(content: str, mode: int = 0o600, **more: str) -> Invalid:
        file.write_text(content)
        file.chmod(mode)
        found = refusal({"DRAPE_SECRET_FILE": str(file), **more})
        assert "DRAPE_SECRET_FILE" in found.message
        assert SECRET not in found.message + found.hint
        return found

    assert error_of(SECRET, 0o666).code == "secret_too_open"
    assert error_of(" \n").code == "secret_unreadable"
    assert error_of(SECRET * (SECRET_BYTES_MAX // len(SECRET) + 1)).code == "secret_unreadable"
    assert error_of(SECRET, DRAPE_SECRET="another").code == "bad_setting"


def test_a_secret_in_a_file_that_all_may_read_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    env = env_of(tmp_path, f'[common]\nsecret = "{SECRET}"')
    check(POOL, env)
    assert caplog.messages == []
    os.chmod(env["DRAPE_CONFIG"], 0o644)
    check(POOL, env)
    assert caplog.messages == ["config_open_to_all"]
    assert SECRET not in str(vars(caplog.records[0]))


def test_a_variable_that_nobody_reads_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    """With the nearest; those of other services are theirs to see, and what has no prefix of ours is none of ours."""
    env = {
        "DRAPE_POOL_TARGTE": "1",
        "DRAPE_HEALHT_PORT": "1",
        "DRAPE_GATEWAY_PROT": "1",
        "DRAPE_API_TOKEN": "of the command line",
        "DRAPE_SECRET_FILE": "known",
        "POOL_TARGET": "1",
    }
    with caplog.at_level(logging.WARNING):
        check(POOL, env)

    said = {vars(each)["setting"]: vars(each)["hint"] for each in caplog.records}
    assert set(said) == {"DRAPE_POOL_TARGTE", "DRAPE_HEALHT_PORT"}
    assert "DRAPE_POOL_TARGET" in said["DRAPE_POOL_TARGTE"]
    assert "DRAPE_HEALTH_PORT" in said["DRAPE_HEALHT_PORT"]
    assert set(unknown_variables(POOL, env)) == {*said, "DRAPE_GATEWAY_PROT"}


KEYS = st.sampled_from(
    ["common", "pool", "gateway", "target", "secret", "secret_file", "cache", "nats_url", "docker", "x"]
)
VALUES = st.recursive(
    st.one_of(st.integers(-5, 5), st.booleans(), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=6,
)


def _toml(value: object) -> str:
    """A value as TOML spells it in one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        return msgspec.json.encode(value).decode().replace("\x7f", "\\u007F")
    return str(value)


@explored(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(KEYS, VALUES, max_size=4))
@example({"pool": {"target": 1}})
def test_a_file_is_read_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, object]
) -> None:
    """Whatever TOML it is: a config, or an error with a code that names the file."""
    text = "\n".join(f"{key} = {_toml(value)}" for key, value in content.items())
    assert set(tomllib.loads(text)) == set(content)
    env = env_of(tmp_path_factory.getbasetemp(), text)
    try:
        from_env(PoolConfig, "DRAPE_POOL", env)
        common(env)
        check(POOL, env)
    except DrapeError as error:
        assert env["DRAPE_CONFIG"] in error.message
    else:
        assert set(content) <= {"common", "pool", "gateway"}


@explored(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=40))
def test_rubbish_is_refused_in_words(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "rubbish.toml"
    path.write_bytes(content)
    try:
        tables = read(str(path)).tables
    except Invalid as error:
        assert error.code in {"config_wrong", "config_unreadable"}
    else:
        assert tables == tomllib.loads(content.decode("utf-8-sig"))
