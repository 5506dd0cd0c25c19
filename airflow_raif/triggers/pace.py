"""When a trigger's event may leave: one after another, however many batches end at once.

Airflow's triggerer writes events down one by one, up to a tenth of a second each, and sends no heartbeat until it is
through with those it has. A thousand at once would have it taken for dead, and its triggers started a second time
elsewhere.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, get_running_loop, sleep
from time import monotonic
from weakref import WeakKeyDictionary

#: Seconds between two events of one triggerer.
EVENT_PAUSE_SECONDS = 0.1
#: By event loop: when the next event may leave.
_FREE_AT: WeakKeyDictionary[AbstractEventLoop, float] = WeakKeyDictionary()


async def take_turn() -> None:
    """Wait until an event may leave; the first of many may at once."""
    loop, now = get_running_loop(), monotonic()
    mine = max(_FREE_AT.get(loop, 0.0), now)
    _FREE_AT[loop] = mine + EVENT_PAUSE_SECONDS
    if mine > now:
        await sleep(mine - now)
