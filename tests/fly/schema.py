"""Holds what is asked of the Machines API, and what the fake answers, to the API's document."""

import json
import os
import re
from pathlib import Path
from typing import Any

import jsonschema

DOCUMENT = Path(os.environ.get("DRAPE_FLY_OPENAPI") or Path(__file__).parent / "openapi.json")


class Schema:
    """Notes in `violations` what does not fit; nothing is refused for it."""

    def __init__(self, document: Path = DOCUMENT) -> None:
        self._document: dict[str, Any] = json.loads(document.read_text("utf-8"))
        self.violations: list[str] = []

    def check_request(self, method: str, template: str, query: dict[str, str], body: bytes) -> None:
        operation = self._operation(method, template)
        if operation is None:
            self.violations.append(f"{method} {template} is in no document")
            return
        named = {each["name"]: each["schema"] for each in operation.get("parameters", []) if each["in"] == "query"}
        for name, value in query.items():
            schema = named.get(re.sub(r"^metadata\..*", "metadata.{key}", name))
            if schema is None:
                self.violations.append(f"{method} {template}: no parameter {name}")
            else:
                self._check(f"{method} {template} ?{name}", schema, _typed(value, schema.get("type", "string")))
        declared = operation.get("requestBody")
        if declared is None:
            if body:
                self.violations.append(f"{method} {template}: takes no body")
        elif body or declared.get("required"):
            self._check(f"{method} {template}", declared["content"]["application/json"]["schema"], _json(body))

    def check_response(self, method: str, template: str, status: int, body: bytes) -> None:
        operation = self._operation(method, template)
        if operation is None:
            return
        declared = operation["responses"].get(str(status))
        if declared is None:  # errors have one shape, named or not
            if status < 400:
                self.violations.append(f"{method} {template}: no answer {status}")
                return
            schema = {"$ref": "#/components/schemas/ErrorResponse"}
        else:
            schema = declared.get("content", {}).get("application/json", {}).get("schema", {})
        self._check(f"{method} {template} {status}", schema, _json(body))

    def _operation(self, method: str, template: str) -> dict[str, Any] | None:
        paths = self._document["paths"]
        found: dict[str, Any] | None = paths.get(template, paths.get(template.removeprefix("/v1"), {})).get(
            method.lower()
        )
        return found

    def _check(self, where: str, schema: dict[str, Any], value: Any) -> None:
        whole = {**schema, "components": self._document["components"]}
        self.violations += [
            f"{where}: {error.message} at {list(error.absolute_path)}"
            for error in jsonschema.Draft4Validator(whole).iter_errors(value)
        ]


def _typed(value: str, kind: str) -> Any:
    if kind == "integer":
        return int(value) if value.isdecimal() else value
    if kind == "boolean":
        return {"true": True, "false": False}.get(value, value)
    return value


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
