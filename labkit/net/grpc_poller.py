"""gRPC's poller: it lives as long as the process, and lets go of a loop that ends."""

import asyncio
import gc
import threading
from functools import cache

from grpc import aio

from labkit.background import AT_END


@cache
def keep_poller() -> None:
    """Start gRPC's poller, once in a process. Call it on a running loop before a server or a channel is made.

    By itself gRPC ends the poller with its last server or channel and begins another with the next, on
    whichever thread that is. Until then it holds every loop that it has met, 0.25 MiB each with uvloop.
    """
    aio.init_grpc_aio()
    AT_END.append(_let_go)


def _let_go(loop: asyncio.AbstractEventLoop) -> None:
    """Take a loop out of the poller's table.

    No public call does this, so the table is found by its type. If another version of gRPC has no such table,
    nothing happens.
    """
    for thread in threading.enumerate():
        poller = getattr(getattr(thread, "_target", None), "__self__", None)
        if type(poller).__name__ != "PollerCompletionQueue":
            continue
        for table in gc.get_referents(poller):
            if isinstance(table, dict) and (bound := table.pop(loop, None)) is not None:
                bound.close()
