"""Inputs of every kind, made from a seed: bytes, texts, JSON and what is nearly JSON, and mutations of what is right."""

import json
import random
from collections.abc import Sequence
from typing import Any

DEEP = 200_000
"""Nesting far beyond any stack."""
TEXTS = (
    "", "a", "\0", "\ud800", "../x", "/etc/passwd", "%00", "%2e%2e%2f", "é" * 300, "a" * 5_000, "{port}", "'", '"', "\r\n", "\x1b[31m",
    "null", "true", "-1", "NaN", "..", ".", "*", ">", "a.b", "a b", "drape.evt.>", "sealed.v1.x.AAAA", "sealed.v1..", "\u202e", "\uffff",
)  # fmt: skip
NUMBERS = (0, -1, 1, 2**31, 2**53, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308, 65_536)
RAW_VALUES = (
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"01", b"+1", b"0x1", b"9" * 5_000, b'"\\ud800"', b'"\\udc00\\ud800"', b'"\xff"',
    b'"\xed\xa0\x80"', b"'a'", b"tru", b"nul", b'"a', b"[", b"{", b'{"a"', b"[1,]", b'{"a":1,}', b"/* a */ 1", b"\xef\xbb\xbf1",
    b"[" * DEEP, b'{"a":' * DEEP, b"[" * 900 + b"]" * 900, b"[" * DEEP + b"]" * DEEP,
)  # fmt: skip


def some_bytes(rng: random.Random, most: int = 200) -> bytes:
    """Any bytes at all."""
    return rng.randbytes(rng.choice((0, 1, 2, rng.randrange(1, most))))


def text(rng: random.Random) -> str:
    """A text: known to be nasty, or any."""
    if rng.random() < 0.6:
        return rng.choice(TEXTS)
    chars = (rng.randrange(1, 128), rng.randrange(1, 0x3000), rng.randrange(1, 0x10FFFF))
    return "".join(chr(rng.choice(chars)) for _ in range(rng.randrange(30)))


def value(rng: random.Random, depth: int = 3) -> Any:
    """Any JSON value."""
    kind = rng.randrange(8 if depth else 5)
    if kind in (0, 1):
        return text(rng)
    if kind == 2:
        return rng.choice(NUMBERS)
    if kind in (3, 4):
        return rng.choice((None, True, False))
    if kind == 5:
        return [value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {text(rng): value(rng, depth - 1) for _ in range(rng.randrange(4))}


def near(rng: random.Random, right: Any) -> Any:
    """A JSON value that is almost this one: a field lost, added, of another kind, or somewhere else."""
    if not isinstance(right, dict) or not right or rng.random() < 0.1:
        return value(rng)
    made = dict(right)
    for _ in range(rng.randrange(3)):
        name = rng.choice(list(right))
        match rng.randrange(5):
            case 0:
                made.pop(name, None)
            case 1:
                made[text(rng)] = value(rng)
            case 2:
                made[name] = near(rng, right[name])
            case _:
                made[name] = value(rng, 1)
    return made


def encoded(rng: random.Random, data: Any) -> bytes:
    """As JSON, or as what is nearly JSON."""
    body = json.dumps(data, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.6:
        return body
    match rng.randrange(6):
        case 0:
            return mutated(rng, body)
        case 1:
            return rng.choice(RAW_VALUES)
        case 2:
            return some_bytes(rng)
        case 3 if isinstance(data, dict) and data:
            # A value, or one more field of the same name, that no encoder writes.
            name = json.dumps(rng.choice(list(data))).encode()
            return body[:-1] + b", " + name + b": " + rng.choice(RAW_VALUES) + b"}"
        case 4:
            return b'{"unknown": ' + rng.choice(RAW_VALUES) + b"}"
        case _:
            return body[: rng.randrange(len(body) + 1)]


def mutated(rng: random.Random, data: bytes, times: int = 4) -> bytes:
    """With some bytes changed, lost, doubled, or moved."""
    made = bytearray(data)
    for _ in range(rng.randrange(1, times + 1)):
        if not made:
            return some_bytes(rng)
        at = rng.randrange(len(made))
        match rng.randrange(6):
            case 0:
                made[at] = rng.randrange(256)
            case 1:
                made[at] ^= 1 << rng.randrange(8)
            case 2:
                del made[at : at + rng.choice((1, 7, 64, 512))]
            case 3:
                made[at:at] = made[at : at + rng.choice((1, 16, 512))]
            case 4:
                made[at:at] = rng.choice((b"\0", b"\xff", b"\r\n", b"9" * 30, b"../", b" "))
            case _:
                del made[at:]
    return bytes(made)


def one_of(rng: random.Random, *makers: Any) -> Any:
    """What one of these functions makes."""
    return rng.choice(makers)(rng)


def some(rng: random.Random, choices: Sequence[Any], most: int) -> list[Any]:
    """Up to `most` of these, in any order, some of them twice."""
    return [rng.choice(choices) for _ in range(rng.randrange(most + 1))]
