"""The other end of `ProcessServer`: serve until stdin closes, one line of JSON at a time.

The first line says what to serve; each later one turns knobs. Each is answered by one line.
"""

import json
import os
import sys
from typing import Any, TextIO

from labkit import interfaces
from labkit.errors import LabkitError
from labkit.launch.server import Options
from labkit.launch.threaded import ThreadServer


def main() -> None:
    replies = _own_stdout()
    server: ThreadServer | None = None
    try:
        for line in sys.stdin:
            told = json.loads(line)
            reply: dict[str, Any] = {"number": told["number"]}
            try:
                if server is None:
                    server = _start(**told["message"])
                    reply |= {"scheme": server.url.partition("://")[0], "port": server.port}
                else:
                    server.tune(**told["message"])
            except LabkitError as error:
                reply |= {"code": error.code, "error": str(error)}
            replies.write(json.dumps(reply) + "\n")
            replies.flush()
    finally:
        if server is not None:
            server.stop()


def _start(name: str, server: str, engine: str, options: dict[str, Any]) -> ThreadServer:
    started = ThreadServer(name, interfaces.dereference(server), engine, Options(**options))
    started.start()
    return started


def _own_stdout() -> TextIO:
    """Keep stdout for replies: what anybody prints here goes to stderr."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return replies


if __name__ == "__main__":
    main()
