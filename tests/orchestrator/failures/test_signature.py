"""What tells failures apart whose cause is not known."""

import pytest

from services.orchestrator.rules.failures import Ended, explain
from services.orchestrator.rules.failures.signature import LINES_MAX, signature
from shared.grouping import normalised

NODE = """file:///srv/shop/server.mjs:{line}
throw new Error('{text}')
      ^

Error: {text}
    at file:///srv/shop/server.mjs:{line}:7
    at ModuleJob.run (node:internal/modules/esm/module_job:345:25)

Node.js v24.1.0"""
PYTHON = """Traceback (most recent call last):
  File "/srv/shop/main.py", line {line}, in <module>
    begin()
ValueError: {text}"""


def grouped(log: str) -> str:
    return normalised(signature(log.splitlines()))


@pytest.mark.parametrize("log", [NODE, PYTHON])
def test_another_place_is_the_same_and_another_error_is_not(log: str) -> None:
    one = grouped(log.format(line=3, text="no way back"))
    assert one == grouped(log.format(line=57, text="no way back"))
    assert one != grouped(log.format(line=3, text="a way is closed"))
    assert "no way back" in signature(log.format(line=3, text="no way back").splitlines())


def test_stack_frames_and_blank_lines_say_nothing() -> None:
    lines = signature(NODE.format(line=3, text="no way back").splitlines()).splitlines()
    assert lines == ["throw new Error('no way back')", "Error: no way back"]


def test_without_a_word_of_anything_wrong_the_end_counts() -> None:
    assert signature(["one", "", "two", "three", "four"]) == "two\nthree\nfour"
    assert signature([]) == ""
    assert len(signature(["Error: " + "x" * 9_000] * 50)) < 1_000
    assert len(signature([f"Error {each}" for each in range(50)]).splitlines()) == LINES_MAX


def test_only_what_the_catalogue_does_not_know_has_one() -> None:
    """A known cause has a message that says it."""
    ended = Ended(step="dev_server", exit_code=1)
    unknown = explain(ended, NODE.format(line=3, text="no way back").splitlines())
    known = explain(ended, ["Error: listen EADDRINUSE: address already in use 127.0.0.1:5173"])
    assert "no way back" in unknown.signature
    assert known.signature == ""
