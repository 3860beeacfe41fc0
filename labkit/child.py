"""The other end of `ProcessServer`: serve until stdin closes, one line of JSON at a time.

The first line says what to serve; each later one turns knobs. Each is answered by one line.
"""

import json
import os
import sys
from typing import Any, TextIO

from labkit import interfaces
from labkit.errors import LabkitError
from labkit.serving import ThreadServer


def main() -> None:
    replies = _own_stdout()
    config = json.loads(sys.stdin.readline() or "null")
    if config is None:
        return
    create = interfaces.dereference(config["server"])
    server = ThreadServer(
        config["name"], create, config["engine"], config["host"], config["port"], config["flush"]
    )
    try:
        server.start()
    except LabkitError as error:
        _reply(replies, {"error": str(error)})
        return
    try:
        _reply(replies, {"scheme": server.url.partition("://")[0], "port": server.port})
        for line in sys.stdin:
            server.tune(**json.loads(line))
            _reply(replies, {})
    finally:
        server.stop()


def _own_stdout() -> TextIO:
    """Keep stdout for replies: what anybody prints here goes to stderr."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return replies


def _reply(replies: TextIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


if __name__ == "__main__":
    main()
