"""That an action was asked for on our own pages: no other site makes a browser act in its user's name."""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import HTTPException, Request
from itsdangerous import BadSignature, URLSafeTimedSerializer

from airflow_raif.hooks.airflow_server import api_base_url, signing_key
from airflow_raif.plugin.access import Viewer

#: Seconds within which a question may be answered.
TOKEN_SECONDS = 3600
#: Seconds for which a page tells what was done.
NOTE_SECONDS = 60


def make_token(viewer: Viewer, batch_id: str, action: str) -> str:
    """Return what the form of an action carries: good for one user, batch and action, for an hour."""
    return str(_serializer("action").dumps([viewer.user.get_id(), batch_id, action]))


def check_token(token: str, viewer: Viewer, batch_id: str, action: str) -> None:
    """Raise 403 unless a token was made for this.

    :raises HTTPException: see above.
    """
    try:
        said = _serializer("action").loads(token, max_age=TOKEN_SECONDS)
    except BadSignature as error:
        raise HTTPException(403, "This form is too old, or not ours. Go back to the batch and try again.") from error
    if said != [viewer.user.get_id(), batch_id, action]:
        raise HTTPException(403, "This form was made for another user, batch or action. Go back and try again.")


def make_note(text: str) -> str:
    """Return a text as an address may carry it to our next page, so that no other site can have us say something."""
    return str(_serializer("note").dumps(text))


def read_note(note: str) -> str:
    """Return the text of a note of ours; nothing, if it is none, or is old."""
    try:
        return str(_serializer("note").loads(note, max_age=NOTE_SECONDS))
    except BadSignature:
        return ""


def check_origin(request: Request) -> None:
    """Raise 403 if a browser says that the request was made by a page of another origin.

    https://developer.mozilla.org/docs/Web/HTTP/Headers/Sec-Fetch-Site is sent by all browsers of today wherever the
    address is one of HTTPS, and holds behind a proxy that asks us by another name. Otherwise there is Origin.

    :raises HTTPException: see above.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    ours = {request.headers.get("host", "").lower(), urlsplit(api_base_url()).netloc.lower()} - {""}
    is_ours = origin is None or urlsplit(origin).netloc.lower() in ours if site is None else site == "same-origin"
    if not is_ours:
        raise HTTPException(403, "The request was made by a page of another site.")


def check_bearer(request: Request) -> None:
    """Raise 403 if a request is authorised by a cookie alone, which browsers send by themselves.

    :raises HTTPException: see above.
    """
    if not request.headers.get("authorization", "").lower().startswith("bearer "):
        raise HTTPException(403, "Send a token in the Authorization header; a cookie is not enough to act.")


def _serializer(what: str) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(signing_key(), salt=f"airflow-raif-{what}")
