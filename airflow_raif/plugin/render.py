"""Templates: every value is escaped, and cleaned of what would move or hide other text, unless it is markup of ours."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined, Undefined
from markupsafe import Markup

from airflow_raif.domain.batch import SHARED
from airflow_raif.domain.status import BatchStatus, EntryStatus, FailureReason
from airflow_raif.hooks.pages import BASE_PATH
from airflow_raif.plugin import shown

STATIC = Path(__file__).parent / "static"


def _finalize(value: Any) -> Any:
    if isinstance(value, Markup | Undefined):
        return value
    return "" if value is None else shown.clean(str(value))


def _query(changes: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Return a query string: what was given, with changes; what is empty is left out."""
    merged = {**given, **changes}
    return urlencode({name: value for name, value in merged.items() if value not in (None, "", [], ())}, doseq=True)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("airflow_raif.plugin"),
        autoescape=True,
        finalize=_finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        name: getattr(shown, name) for name in ("ago", "count", "dollars", "duration", "moment", "percent")
    }
    environment.filters["segment"] = lambda value: quote(str(value), safe="")
    environment.globals |= {
        "BatchStatus": BatchStatus,
        "EntryStatus": EntryStatus,
        "FailureReason": FailureReason,
        "SHARED": SHARED,
        "query": _query,
    }
    return environment


@cache
def _asset(name: str) -> str:
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:16]
    return f"static/{name}?v={digest}"


def page(request: Request, template: str, *, status: int = 200, headers: Any = None, **values: Any) -> HTMLResponse:
    """Render a template; it sees ``root``, the address of the pages, and ``airflow``, that of Airflow's UI."""
    root = request.scope.get("root_path", "")
    html = (
        _environment()
        .get_template(template)
        .render(
            root=root,
            airflow=root.removesuffix(BASE_PATH),
            asset=lambda name: f"{root}/{_asset(name)}",
            address=f"{request.url.path}?{request.url.query}",
            now=datetime.now(UTC),
            status_code=status,
            **values,
        )
    )
    return HTMLResponse(html, status_code=status, headers=headers)
