"""The `authorization` block of a NATS server: who gets in by which key, and what each may do."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from deploy.nats.permissions import OPERATOR, Permissions, permissions_of

TIMEOUT_S = 5
FILE = "authorization.conf"
"""Its name beside `nats.conf`, which includes it: keys are changed by writing this file alone."""


class User(msgspec.Struct, frozen=True):
    """One way to get in: as `identity`, by a public nkey, or by a password for URLs."""

    identity: str
    public_key: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"User({self.identity})"


def users(keys: Mapping[str, str], operator_password: str = "") -> list[User]:
    """Everybody by their public key; the operator by a password too, where one is given, for addresses that hold it."""
    found = [User(identity, public_key=key) for identity, key in keys.items()]
    return [*found, User(OPERATOR, password=operator_password)] if operator_password else found


def authorization(users: Sequence[User]) -> str:
    """The block as text, to be included in a server's configuration. Holds passwords, where users have one."""
    block = {"timeout": TIMEOUT_S, "users": [_user(user) for user in users]}
    # The server's language takes JSON; its `$` means a variable only outside of quotes.
    return f"# Written by drape; changes made here are lost.\nauthorization: {json.dumps(block, indent=2)}\n"


def open_authorization(user: str, password: str) -> str:
    """One user who may do everything, for servers that nobody else uses."""
    return f"authorization: {json.dumps({'user': user, 'password': password, 'timeout': TIMEOUT_S})}\n"


def _user(user: User) -> dict[str, Any]:
    who = {"nkey": user.public_key} if user.public_key else {"user": user.identity, "password": user.password}
    return {**who, "permissions": _permissions(permissions_of(user.identity))}


def _permissions(allowed: Permissions) -> dict[str, Any]:
    publish: dict[str, Any] = {"allow": list(allowed.publish)}
    if allowed.publish_denied:
        publish["deny"] = list(allowed.publish_denied)
    told: dict[str, Any] = {"publish": publish, "subscribe": {"allow": list(allowed.subscribe)}}
    if allowed.replies:
        told["allow_responses"] = True
    return told
