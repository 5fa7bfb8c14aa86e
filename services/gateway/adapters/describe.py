"""`/openapi.json` and `/asyncapi.json`, made from the same types that the code uses."""

from typing import Any

import msgspec

from shared.codec import SUBJECT_ROOT
from shared.errors import Problem
from shared.events import EVENT_TYPES

VERSION = "0.1.0"
Json = dict[str, Any]

_TAR: dict[str, dict[str, str]] = {"application/x-tar": {}, "application/gzip": {}}
_ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key twice does the work once.",
    "schema": {"type": "string", "maxLength": 200},
}


def openapi() -> Json:
    """OpenAPI 3.1 of the HTTP surface."""
    (problem,), definitions = msgspec.json.schema_components([Problem], ref_template="#/components/schemas/{name}")
    return {
        "openapi": "3.1.0",
        "info": {"title": "Drape", "version": VERSION, "description": "Live previews of web projects."},
        "paths": {**_project_paths(problem), **_preview_paths(problem), **_health_paths(problem)},
        "components": {
            "schemas": {**definitions, "Project": _project_schema(), "Preview": _preview_schema()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(summary: str, problem: Json, answers: dict[str, Json], **more: Any) -> Json:
    default = {"description": "A problem (RFC 9457)", "content": {"application/problem+json": {"schema": problem}}}
    return {"summary": summary, "responses": {**answers, "default": default}, **more}


def _ok(description: str, schema: Json | None = None, media: str = "application/json") -> Json:
    return {"description": description, **({"content": {media: {"schema": schema}}} if schema else {})}


def _project_paths(problem: Json) -> Json:
    project = {"$ref": "#/components/schemas/Project"}
    many = {"type": "object", "properties": {"projects": {"type": "array", "items": project}}}
    name = {"type": "object", "properties": {"name": {"type": "string"}}}
    create_body = {"content": {"application/json": {"schema": name}}}
    preview = {"$ref": "#/components/schemas/Preview"}
    values = {"type": "object", "additionalProperties": {"type": ["string", "null"]}}
    variables = {"content": {"application/json": {"schema": values}}}
    files = {"content": {media: {"schema": {"type": "string", "format": "binary"}} for media in _TAR}}
    return {
        "/api/projects": {
            "get": _operation("The owner's projects", problem, {"200": _ok("Projects", many)}),
            "post": _operation(
                "Create a project",
                problem,
                {"201": _ok("Created", project)},
                requestBody=create_body,
                parameters=[_KEY],
            ),
        },
        "/api/projects/{id}": {
            "parameters": [_ID],
            "get": _operation("A project", problem, {"200": _ok("The project", project)}),
            "delete": _operation("Delete a project and its files", problem, {"204": _ok("Deleted")}),
        },
        "/api/projects/{id}/files": {
            "parameters": [_ID],
            "get": _operation(
                "The files by path: hash, size, mode", problem, {"200": _ok("Files", {"type": "object"})}
            ),
            "put": _operation(
                "Replace all files by a tar; with a first member .drape-manifest.json (path: sha256, mode) the tar holds "
                "only contents that are new",
                problem,
                {"200": _ok("Stored")},
                requestBody=files,
            ),
            "patch": _operation("Change files by a tar", problem, {"200": _ok("Stored")}, requestBody=files),
        },
        "/api/projects/{id}/env": {
            "parameters": [_ID],
            "get": _operation("The names of its variables", problem, {"200": _ok("Names", {"type": "object"})}),
            "put": _operation("Set all variables", problem, {"200": _ok("Names")}, requestBody=variables),
            "patch": _operation("Set variables; null removes", problem, {"200": _ok("Names")}, requestBody=variables),
        },
        "/api/projects/{id}/prepare": {
            "parameters": [_ID],
            "post": _operation(
                "Do what can be done before its preview is wanted",
                problem,
                {"202": _ok("Begun", preview), "200": _ok("It has a live preview already: that one", preview)},
                requestBody=_choice(),
                parameters=[_KEY],
            ),
        },
    }


def _choice() -> Json:
    """Which app, where a project holds several; the whole body may be left out."""
    schema = {"type": "object", "properties": {"app": {"type": "string"}}}
    return {"required": False, "content": {"application/json": {"schema": schema}}}


def _preview_paths(problem: Json) -> Json:
    preview = {"$ref": "#/components/schemas/Preview"}
    many = {"type": "object", "properties": {"previews": {"type": "array", "items": preview}}}
    named = {"project_id": {"type": "string"}, "app": {"type": "string"}}
    wanted = {"type": "object", "required": ["project_id"], "properties": named}
    stream = {"type": "string"}
    return {
        "/api/previews": {
            "get": _operation("The owner's previews", problem, {"200": _ok("Previews", many)}),
            "post": _operation(
                "Show a project",
                problem,
                {"202": _ok("Requested", preview), "200": _ok("It has a live preview already: that one", preview)},
                requestBody={"content": {"application/json": {"schema": wanted}}},
                parameters=[_KEY],
            ),
        },
        "/api/previews/{id}": {
            "parameters": [_ID],
            "get": _operation("A preview", problem, {"200": _ok("The preview", preview)}),
            "delete": _operation("Stop a preview", problem, {"200": _ok("The preview", preview)}),
        },
        "/api/previews/{id}/restart": {
            "parameters": [_ID],
            "post": _operation(
                "Try again", problem, {"202": _ok("Restarted", preview)}, requestBody=_choice(), parameters=[_KEY]
            ),
        },
        "/api/previews/{id}/logs": {
            "parameters": [_ID],
            "get": _operation("Its output; as SSE live", problem, {"200": _ok("Lines", stream, "text/event-stream")}),
        },
        "/api/previews/{id}/events": {
            "parameters": [_ID],
            "get": _operation("Its changes", problem, {"200": _ok("Changes", stream, "text/event-stream")}),
        },
    }


def _health_paths(problem: Json) -> Json:
    anything = {"type": "object"}
    days = {"name": "days", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 365, "default": 7}}
    return {
        "/health": {"get": _operation("Is this gateway able to serve?", problem, {"200": _ok("Yes", anything)})},
        "/health/pool": {"get": _operation("The pool in numbers", problem, {"200": _ok("Counts", anything)})},
        "/metrics/stats": {
            "get": _operation("What previews took", problem, {"200": _ok("Figures", anything)}, parameters=[days])
        },
    }


def _properties(**kinds: str) -> Json:
    return {"type": "object", "properties": {name: {"type": kind.split("|")} for name, kind in kinds.items()}}


def _project_schema() -> Json:
    return _properties(
        project_id="string",
        name="string",
        owner="string",
        version="integer",
        files="integer",
        bytes="integer",
        env="array",
    )


def _preview_schema() -> Json:
    return _properties(
        preview_id="string",
        project_id="string",
        project_name="string",
        owner="string",
        status="string",
        step="string",
        percent="number",
        message="string",
        elapsed_s="number",
        url="string|null",
        framework="string",
        version="string",
        package_manager="string",
        warnings="array",
        detail="string",
        hmr="object|null",
        eta_s="number|null",
        phase="string",
        quiet_s="number|null",
        error="object|null",
        log_tail="array",
        steps="object",
        from_pool="boolean|null",
        install="string|null",
        total_s="number|null",
        created_at="number",
        attempt="integer",
        vm_id="string",
        seq="integer",
    )


def asyncapi() -> Json:
    """AsyncAPI 3.0: every event on the log, one message and one channel a type."""
    kinds = list(EVENT_TYPES.values())
    _, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    channels = {
        name: {
            "address": f"{SUBJECT_ROOT}.{kind.service}.{kind.aggregate}.{{id}}.{name}",
            "parameters": {"id": {"description": f"The {kind.aggregate}'s id"}},
            "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        }
        for name, kind in EVENT_TYPES.items()
    }
    messages = {
        name: {
            "name": name,
            "summary": (kind.__doc__ or "").strip().splitlines()[0],
            "contentType": "application/json",
            "payload": {"$ref": f"#/components/schemas/{name}"},
        }
        for name, kind in EVENT_TYPES.items()
    }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Drape events", "version": VERSION, "description": "The `data` of each event's envelope."},
        "channels": channels,
        "components": {"messages": messages, "schemas": schemas},
    }
