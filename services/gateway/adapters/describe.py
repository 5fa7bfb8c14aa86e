"""`/openapi.json` and `/asyncapi.json`, made from the same types that the code uses."""

from typing import Any

import msgspec

from services.gateway.adapters import insight
from services.gateway.adapters.describe_costs import cost_paths
from services.gateway.views import LOG_STEPS
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
        "paths": {
            **_project_paths(problem),
            **_file_paths(problem),
            **_env_paths(problem),
            **_residents_paths(problem),
            **_preview_paths(problem),
            **_link_paths(problem),
            **insight.described(_operation, problem, _ID),
            **_alert_paths(problem),
            **_health_paths(problem),
            **cost_paths(problem),
        },
        "components": {
            "schemas": {
                **definitions,
                "Project": _project_schema(),
                "Preview": _preview_schema(),
                "Env": _env_schema(),
                "Residents": _residents_schema(),
            },
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
    app = {"content": {"application/json": {"schema": _properties(app="string")}}}
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
            "delete": _operation(
                "Delete a project and everything of it; again: nothing more", problem, {"204": _ok("Deleted")}
            ),
        },
        "/api/projects/{id}/erasure": {
            "parameters": [_ID],
            "get": _operation(
                "Whether everything of a deleted project is gone, and how much that was",
                problem,
                {"200": _ok("Erasure", _erasure_schema())},
            ),
        },
        "/api/projects/{id}/prepare": {
            "parameters": [_ID],
            "post": _operation(
                "Do all that can be done before somebody wants to see it: its preview begins, up to the dev server",
                problem,
                {"202": _ok("Begun", preview), "200": _ok("It has a live preview already: that one", preview)},
                requestBody=app,
                parameters=[_KEY],
            ),
        },
    }


def _file_paths(problem: Json) -> Json:
    files = {"content": {media: {"schema": {"type": "string", "format": "binary"}} for media in _TAR}}
    stored = _ok("Stored", _properties(version="integer", files="integer", bytes="integer", changed="integer"))
    hashes = {"content": {"application/json": {"schema": _map_of("string")}}}
    missing = _properties(version="integer", missing="array", unchanged="boolean")
    put = (
        "Replace all files by a tar. Its first member may be .drape-manifest.json, a list of {path, sha256, mode} of all "
        "files: then only contents that the present version lacks need to be in it"
    )
    return {
        "/api/projects/{id}/files": {
            "parameters": [_ID],
            "get": _operation(
                "The files by path: hash, size, mode", problem, {"200": _ok("Files", {"type": "object"})}
            ),
            "put": _operation(put, problem, {"200": stored}, requestBody=files),
            "patch": _operation(
                "Change files by a tar, whose first member is .drape-patch.json: {base_version, delete}",
                problem,
                {"200": stored},
                requestBody=files,
            ),
        },
        "/api/projects/{id}/files/missing": {
            "parameters": [_ID],
            "post": _operation(
                "Of {path: sha256}, the hashes whose content the present version lacks",
                problem,
                {"200": _ok("Hashes", missing)},
                requestBody=hashes,
            ),
        },
    }


def _env_paths(problem: Json) -> Json:
    names = {"200": _ok("The variables' names; their values are never shown", {"$ref": "#/components/schemas/Env"})}
    whole = {"content": {"application/json": {"schema": _map_of("string")}}}
    part = {"content": {"application/json": {"schema": _map_of("string", "null")}}}
    return {
        "/api/projects/{id}/env": {
            "parameters": [_ID],
            "get": _operation("The project's variables", problem, names),
            "put": _operation("Replace all variables", problem, names, requestBody=whole),
            "patch": _operation("Set variables; null removes one", problem, names, requestBody=part),
        },
    }


def _residents_paths(problem: Json) -> Json:
    told = {"200": _ok("How many there are to be, and how they are", {"$ref": "#/components/schemas/Residents"})}
    count = {"content": {"application/json": {"schema": {**_properties(count="integer"), "required": ["count"]}}}}
    return {
        "/api/projects/{id}/residents": {
            "parameters": [_ID],
            "get": _operation("The VMs that run this template's dev server ahead of need", problem, told),
            "put": _operation(
                "Make the project a template: how many there are to be", problem, told, requestBody=count
            ),
        },
    }


def _preview_paths(problem: Json) -> Json:
    preview = {"$ref": "#/components/schemas/Preview"}
    many = {"type": "object", "properties": {"previews": {"type": "array", "items": preview}}}
    vm = _properties(memory_mb="integer", region="string", image="string")
    wanted = _properties(project_id="string", app="string", private="boolean")
    wanted = {**wanted, "properties": {**wanted["properties"], **vm["properties"]}, "required": ["project_id"]}
    app = {"content": {"application/json": {"schema": _properties(app="string")}}}
    stream = {"type": "string"}
    return {
        "/api/previews": {
            "get": _operation("The owner's previews", problem, {"200": _ok("Previews", many)}),
            "post": _operation(
                "Show a project",
                problem,
                {
                    "202": _ok("Requested", preview),
                    "200": _ok("It has a live preview already: that one, awake", preview),
                },
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
                "Begin anew, from the step that failed where its VM is still held; `app` names another app",
                problem,
                {"202": _ok("Restarted", preview)},
                requestBody=app,
                parameters=[_KEY],
            ),
        },
        "/api/previews/{id}/logs": {
            "parameters": [_ID],
            "get": _operation(
                "Its output: a page as JSON; as SSE from there on, live. `cut` names what is no longer kept",
                problem,
                {"200": _logs_answer(stream)},
                parameters=_LOG_PARAMETERS,
            ),
        },
        "/api/previews/{id}/events": {
            "parameters": [_ID],
            "get": _operation("Its changes", problem, {"200": _ok("Changes", stream, "text/event-stream")}),
        },
    }


def _link_paths(problem: Json) -> Json:
    link = _properties(preview_id="string", url="string", expires_at="integer", private="boolean")
    body = {"content": {"application/json": {"schema": _properties(ttl_s="number", path="string")}}}
    return {
        "/api/previews/{id}/links": {
            "parameters": [_ID],
            "post": _operation(
                "A signed address that opens a private preview, for `ttl_s` seconds",
                problem,
                {"201": _ok("The link", link)},
                requestBody=body,
            ),
        },
    }


_LOG_PARAMETERS: list[Json] = [
    {"name": "since", "in": "query", "description": "`next` of the last page", "schema": {"type": "integer"}},
    {"name": "step", "in": "query", "description": ", ".join(LOG_STEPS), "schema": {"type": "string"}},
    {"name": "attempt", "in": "query", "schema": {"type": "integer", "minimum": 1}},
]


def _logs_answer(stream: Json) -> Json:
    line = _properties(at="number", step="string", stream="string", text="string", attempt="integer", offset="integer")
    lines = {"type": "array", "items": line}
    page = {"type": "object", "properties": {"lines": lines, "next": {"type": "integer"}, "cut": _cut_schema()}}
    content = {"application/json": {"schema": page}, "text/event-stream": {"schema": stream}}
    return {"description": "Lines", "content": content}


def _cut_schema() -> Json:
    return _properties(type="string", preview_id="string", lines="integer|null", reason="string")


def _alert_paths(problem: Json) -> Json:
    alerts = {"type": "array", "items": _alert_schema()}
    silence = _properties(silence_id="string", pattern="string", until="number", reason="string", by="string")
    shown = {**silence, "properties": {**silence["properties"], **_properties(since="number")["properties"]}}
    silences, channels = {"type": "array", "items": shown}, {"type": "array", "items": {"type": "string"}}
    properties = {"alerts": alerts, "recent": alerts, "silences": silences, "channels": channels}
    wanted = {**_properties(alert="string", for_s="number", reason="string"), "required": ["alert", "for_s"]}
    return {
        "/api/alerts": {
            "get": _operation(
                "Alerts that are raised now, those that were, silences, and who was told; operators only",
                problem,
                {"200": _ok("Alerts", {"type": "object", "properties": properties})},
            ),
        },
        "/api/alerts/silences": {
            "post": _operation(
                "Send nothing of an alert (or of those whose names begin so: `pool_*`, `*`) for a while",
                problem,
                {"201": _ok("The silence", silence)},
                requestBody={"content": {"application/json": {"schema": wanted}}},
                parameters=[_KEY],
            ),
        },
        "/api/alerts/silences/{id}": {
            "parameters": [_ID],
            "delete": _operation("End a silence; again: nothing more", problem, {"204": _ok("Ended")}),
        },
    }


def _alert_schema() -> Json:
    return _properties(
        alert="string",
        severity="string",
        message="string",
        value="number|null",
        threshold="number|null",
        since="number",
        raised_at="number",
        silenced="boolean",
        notifications="array",
        cleared_at="number|null",
        lasted_s="number|null",
    )


def _health_paths(problem: Json) -> Json:
    anything = {"type": "object"}
    days = {"name": "days", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 365, "default": 7}}
    only = [
        {"name": name, "in": "query", "description": f"only attempts of this {name}", "schema": {"type": "string"}}
        for name in ("framework", "provider")
    ]
    return {
        "/health": {"get": _operation("Is this gateway able to serve?", problem, {"200": _ok("Yes", anything)})},
        "/health/pool": {"get": _operation("The pool in numbers", problem, {"200": _ok("Counts", anything)})},
        "/metrics/stats": {
            "get": _operation(
                "What previews took", problem, {"200": _ok("Figures", anything)}, parameters=[days, *only]
            )
        },
    }


def _properties(**kinds: str) -> Json:
    return {"type": "object", "properties": {name: {"type": kind.split("|")} for name, kind in kinds.items()}}


def _map_of(*kinds: str) -> Json:
    return {"type": "object", "additionalProperties": {"type": list(kinds)}}


def _env_schema() -> Json:
    return _properties(project_id="string", names="array")


def _erasure_schema() -> Json:
    counts = dict.fromkeys(("previews", "output_batches", "objects", "reactions"), "integer|null")
    return _properties(project_id="string", erased="boolean", **counts)


def _residents_schema() -> Json:
    return _properties(project_id="string", count="integer", ready="integer", starting="integer", error="object|null")


def _project_schema() -> Json:
    return _properties(
        project_id="string",
        name="string",
        owner="string",
        version="integer",
        files="integer",
        bytes="integer",
        env="array",
        residents="integer",
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
        eta_s="number|null",
        phase="string",
        quiet_s="number|null",
        last_line="string",
        url="string|null",
        detail="string",
        app="string",
        wanted="boolean",
        private="boolean",
        files_version="integer",
        framework="string",
        version="string",
        package_manager="string",
        warnings="array",
        error="object|null",
        log_tail="array",
        hmr="object|null",
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
