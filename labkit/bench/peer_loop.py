"""A peer's process: `python peer_loop.py peer_….py` generates what it is asked for, a line of JSON at a time.

It imports nothing of labkit, for a peer may live in an environment of its own. A peer's file has `PACKAGES`,
whose versions are the first reply, and `load(folder)`, which returns `generate(prompts, tokens)`. What that
returns are the fields of `labkit.bench.peer_process.Answer`; only labkit measures the last one, floors.
"""

import json
import os
import runpy
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO


def main() -> None:
    replies = _own_stdout()
    peer = runpy.run_path(sys.argv[1])
    _say(replies, {package: version(package) for package in peer["PACKAGES"]})
    folder, generate = None, None
    for line in sys.stdin:
        order = json.loads(line)
        if order["folder"] != folder:
            folder, generate = order["folder"], peer["load"](Path(order["folder"]))
        assert generate is not None
        answer = generate(order["prompts"], order["tokens"])
        _say(replies, dict(zip(("seconds", "tokens", "floors"), answer, strict=False)))


def _say(replies: TextIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


def _own_stdout() -> TextIO:
    """Keep stdout for replies: what anybody prints here goes to stderr."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return replies


if __name__ == "__main__":
    main()
