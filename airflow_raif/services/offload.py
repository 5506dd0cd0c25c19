"""A thread of our own for what would hold up the event loop: the loop's pool is small, and everybody's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

#: One thread: several would only take the interpreter from the loop more often.
_THREAD = ThreadPoolExecutor(1, "raif-poller")


async def offload(function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
    """Call a function in the thread and return what it returns."""
    return await asyncio.get_running_loop().run_in_executor(_THREAD, function, *arguments)
