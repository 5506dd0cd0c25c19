"""Cross-references of our docstrings, as the guide's API reference links them."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|data|attr|mod):`(~?)([\w.]+)`")


class CrossReferences(griffe.Extension):
    """Makes a link of ``:class:`~package.Name``` where the guide shows that name, and code of it otherwise."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(_link, obj.docstring.value)


def _link(role: re.Match[str]) -> str:
    short, path = role.groups()
    name = path.rpartition(".")[2] if short else path
    return f'<autoref optional identifier="{path}">`{name}`</autoref>'
