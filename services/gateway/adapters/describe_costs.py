"""OpenAPI of `/api/costs` and `/api/resources`."""

from typing import Any

from services.gateway.adapters.context import DAYS_MAX
from services.gateway.adapters.costs import BY, HOURS_MAX

Json = dict[str, Any]

_NUMBER, _WHOLE, _TEXT = {"type": "number"}, {"type": "integer"}, {"type": "string"}
_MAYBE_NUMBER, _MAYBE_WHOLE, _MAYBE_TEXT = (
    {"type": ["number", "null"]},
    {"type": ["integer", "null"]},
    {"type": ["string", "null"]},
)
_COST = {
    "running_s": _NUMBER,
    "suspended_s": _NUMBER,
    "amount": {**_MAYBE_NUMBER, "description": "In `currency`; null: there is no price"},
    "unpriced_s": {**_NUMBER, "description": "Seconds that are not in the amount"},
}
_SUM = {"type": "object", "properties": _COST}
_OVERHEAD = {
    "type": ["object", "null"],
    "properties": _COST,
    "description": "VMs that served nobody: booting, warm, or on their way out. Null where owners see their own only",
}
_ROW = {"type": "object", "properties": {"key": _TEXT, **_COST, "overhead": _OVERHEAD, "owner": _MAYBE_TEXT}}
_COSTS = {
    "by": _TEXT,
    "days": _WHOLE,
    "currency": _TEXT,
    "rows": {"type": "array", "items": _ROW, "description": "Times oldest first, others costliest first"},
    "truncated": {"type": "boolean"},
    "total": _SUM,
    "overhead": _OVERHEAD,
    "since": _NUMBER,
    "generated_at": _NUMBER,
    "position": _WHOLE,
}
_COUNTS = ("memory_mb", "booting", "available", "in_use", "suspended", "kept", "going", "measured")
_POOL = {
    "name": _TEXT,
    "provider": _TEXT,
    "region": _TEXT,
    **dict.fromkeys(_COUNTS, _WHOLE),
    "cpu_cores": {**_MAYBE_NUMBER, "description": "Of the `measured` VMs; null: nobody knows"},
    "memory_bytes": {**_MAYBE_WHOLE, "description": "The same"},
}
_SNAPSHOT = {
    "at": {**_NUMBER, "description": "Seconds since 1970, UTC"},
    "pools": {"type": ["array", "null"], "items": {"type": "object", "properties": _POOL}},
    "previews": {"type": "object", "properties": dict.fromkeys(("starting", "ready", "suspended"), _WHOLE)},
}
_RESOURCES = {
    "hours": _WHOLE,
    "snapshots": {
        "type": "array",
        "items": {"type": "object", "properties": _SNAPSHOT},
        "description": "Oldest first",
    },
    "generated_at": _NUMBER,
    "position": _WHOLE,
}


def cost_paths(problem: Json) -> Json:
    """The two paths. `problem`: a reference to the schema of errors."""
    by = {"name": "by", "in": "query", "schema": {"type": "string", "enum": list(BY), "default": "day"}}
    return {
        "/api/costs": {"get": _get("What VMs have cost", _COSTS, problem, [by, _number("days", 7, DAYS_MAX)])},
        "/api/resources": {
            "get": _get(
                "What VMs there were and what they used", _RESOURCES, problem, [_number("hours", 24, HOURS_MAX)]
            )
        },
    }


def _number(name: str, default: int, most: int) -> Json:
    schema = {"type": "integer", "minimum": 1, "maximum": most, "default": default}
    return {"name": name, "in": "query", "schema": schema}


def _get(summary: str, answer: Json, problem: Json, parameters: list[Json]) -> Json:
    content = {"application/json": {"schema": {"type": "object", "properties": answer}}}
    default = {"description": "A problem (RFC 9457)", "content": {"application/problem+json": {"schema": problem}}}
    return {
        "summary": summary,
        "parameters": parameters,
        "responses": {"200": {"description": "Figures", "content": content}, "default": default},
    }
