"""The text form of a request, merged with its batch's defaults; shared by every adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import msgspec

from airflow_raif.domain.errors import InvalidRequestError
from airflow_raif.domain.request import EntryRequest

_encode = msgspec.json.Encoder().encode
_FORMS = ("prompt", "messages", "body")
_NOTHING = (None,) * 7
_TWO_SIDES = 2
ROLES = frozenset(("user", "assistant", "system", "developer"))


def check_form(request: EntryRequest) -> None:
    """See that a request has exactly one of prompt, messages and body.

    :raises InvalidRequestError: it has none or several, or one of the wrong kind.
    """
    if (request.prompt is None) + (request.messages is None) + (request.body is None) != len(_FORMS) - 1:
        given = [name for name in _FORMS if getattr(request, name) is not None]
        has = " and ".join(given) if given else "neither prompt nor messages nor body"
        raise InvalidRequestError(f"the request has {has}; give exactly one of prompt, messages and body")
    if request.prompt is not None and (not isinstance(request.prompt, str) or not request.prompt):
        raise InvalidRequestError(f"the prompt is {request.prompt!r:.60}; give a text that is not empty")
    if request.body is not None and not isinstance(request.body, Mapping):
        raise InvalidRequestError(f"the body is a {type(request.body).__name__}; give the native request as a mapping")


def text_messages(request: EntryRequest) -> list[dict[str, Any]]:
    """Return a request's messages: those it has, or its prompt as the user's one.

    :raises InvalidRequestError: a message has no known role or no text.
    """
    if request.prompt is not None:
        return [{"role": "user", "content": request.prompt}]
    messages = request.messages
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise InvalidRequestError("messages is empty or no list; give [{'role': 'user', 'content': 'text'}, ...]")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            raise InvalidRequestError(f"message {number} has no role of {', '.join(sorted(ROLES))}: {message!r:.80}")
        if not isinstance(message.get("content"), str):
            raise InvalidRequestError(
                f"message {number} has no text as content; images, documents and tools go into a native body"
            )
    return messages


def split_system(messages: list[dict[str, Any]], system: str | None) -> tuple[str | None, list[dict[str, Any]]]:
    """Take system messages out, for providers that want them apart from the conversation."""
    texts = [each["content"] for each in messages if each["role"] in ("system", "developer")]
    if not texts:
        return system, messages
    rest = [each for each in messages if each["role"] not in ("system", "developer")]
    return "\n\n".join(([system] if system else []) + texts), rest


def merge_params(body: dict[str, Any], params: Mapping[str, Any] | None) -> dict[str, Any]:
    """Merge the user's params into a native body, mappings deeply; the params win."""
    if not params:
        return body
    merged = dict(body)
    for name, value in params.items():
        mine = merged.get(name)
        merged[name] = merge_params(mine, value) if isinstance(mine, dict) and isinstance(value, Mapping) else value
    return merged


def line_encoder(
    head: bytes, middle: bytes, make_body: Callable[[EntryRequest], Mapping[str, Any]]
) -> Callable[[EntryRequest, str], bytes]:
    """Return a function that writes a request as a line: ``head``, its wire id, ``middle``, its native body and ``}``.

    :param make_body: given requests of one of the forms; of those that are a prompt alone it makes bodies that differ
        in the prompt alone.
    """
    around: list[bytes] = []

    def encode(request: EntryRequest, wire_id: str) -> bytes:
        nonlocal around
        if _is_prompt_alone(request):
            # What most rows are: only the prompt differs, and the JSON around it is written once.
            around = around or _around_prompt(make_body)
            if len(around) == _TWO_SIDES:
                before, after = around
                return b"".join((head, wire_id.encode(), middle, before, encode_json(request.prompt), after, b"}"))
        check_form(request)
        return b"".join((head, wire_id.encode(), middle, encode_json(make_body(request)), b"}"))

    return encode


def _is_prompt_alone(request: EntryRequest) -> bool:
    given = (
        request.messages, request.body, request.system, request.model, request.max_tokens, request.temperature,
        request.params,
    )  # fmt: skip
    return given == _NOTHING and type(request.prompt) is str and request.prompt != ""


def _around_prompt(make_body: Callable[[EntryRequest], Mapping[str, Any]]) -> list[bytes]:
    """Return the JSON before and after a prompt, or as one piece where the defaults put something in its place."""
    mark = uuid4().hex
    return encode_json(make_body(EntryRequest(prompt=mark))).split(f'"{mark}"'.encode())


def encode_json(body: Any) -> bytes:
    """Write a native body, or a part of it, as JSON.

    :raises InvalidRequestError: a text in it is not UTF-8, or a value has no JSON form.
    """
    try:
        return _encode(body)
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"the text cannot be written as UTF-8 ({error.reason} at character {error.start}); mend its encoding"
        ) from error
    except TypeError as error:
        raise InvalidRequestError(f"the request cannot be written as JSON: {error}") from error
