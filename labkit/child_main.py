"""The program of a child process: it obeys each line of JSON on its stdin, and ends when stdin does.

`python -P child_main.py FILE`: FILE has a context manager `work`. Its arguments are the first order. It
yields the reply to that order, and the function that obeys each later one. Stdin is a socket, and replies go
back on it; `labkit/child.py` describes the lines. An interpreter without labkit runs this file too.
"""

import json
import os
import runpy
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any


def main() -> None:
    wire = _own_stdin()
    with ExitStack() as stack, wire.makefile("r", encoding="utf-8") as lines:
        obey: Callable[..., Any] | None = None
        for line in lines:
            message = json.loads(line)
            reply = {"number": message["number"]}
            try:
                if obey is None:
                    work = runpy.run_path(sys.argv[1])["work"]
                    reply["reply"], obey = stack.enter_context(work(**message["order"]))
                else:
                    reply["reply"] = obey(**message["order"])
            except Exception as error:
                reply |= _refusal(error)
            wire.sendall(json.dumps(reply).encode() + b"\n")


def _own_stdin() -> socket.socket:
    """Take the socket out of stdin, so that no other code here reads it and no child inherits it."""
    wire = socket.socket(fileno=os.dup(0))
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    return wire


def _refusal(error: Exception) -> dict[str, str]:
    """Describe an error: one of labkit by its code and message, any other by its name and place too."""
    code = getattr(type(error), "code", None)
    return {"code": code, "error": str(error)} if isinstance(code, str) else {"error": _one_line(error)}


def _one_line(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message} ({os.path.basename(place.filename)}, line {place.lineno})"


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the parent has left
    except Exception as error:
        sys.exit(_one_line(error))
