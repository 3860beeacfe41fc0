"""What goes wrong in a chapter's cell is told in one line, and the cells after it run."""

import os
import sys
import warnings
from asyncio import CancelledError
from types import TracebackType
from typing import TYPE_CHECKING

from labkit.errors import LabkitError
from labkit.lesson.findings import MODE

if TYPE_CHECKING:
    from IPython.core.interactiveshell import ExecutionResult, InteractiveShell

KINDS = (Exception, KeyboardInterrupt, CancelledError)
"""What is told: errors and interrupts. An interrupt of a cell that awaits arrives as CancelledError."""
LONGEST = 300

Raised = tuple[type[BaseException], BaseException, TracebackType | None]


def one_line(error: BaseException) -> str:
    """The message of an error as one line of at most 300 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def told(error: BaseException, line: int | None) -> str:
    """Say in one line what went wrong in this line of a cell, and what to do next."""
    where = f" in line {line}" if line else ""
    match error:
        case KeyboardInterrupt() | CancelledError():
            return "Interrupted. For its result, run this cell again."
        case LabkitError():
            return one_line(error)
        case NameError(name=str(name)):
            return f"`{name}` is not there: run the cell above that makes it. (A text needs quotes.)"
        case SyntaxError():
            return f"This is not Python{where}: {error.msg}."
    return f"{type(error).__name__}{where}: {one_line(error)} (%tb shows the whole traceback.)"


class Teller:
    """Tells the errors of a shell's cells in place of their tracebacks.

    A cell that ended so counts as run, since Jupyter drops the cells that wait behind one that failed.
    """

    def __init__(self, shell: "InteractiveShell") -> None:
        self._told: BaseException | None = None
        shell.set_custom_exc(  # type: ignore[no-untyped-call]
            KINDS, lambda _shell, *raised, **_: self._tell(raised[:3])
        )
        shell.events.register("post_run_cell", self._forgive)
        # anyio leaves this coroutine behind where a client is stopped before it begins to connect.
        warnings.filterwarnings("ignore", r"coroutine 'connect_tcp\.", RuntimeWarning)

    def _tell(self, raised: Raised) -> None:
        sys.last_type, sys.last_value, sys.last_traceback = raised  # for %tb
        _, self._told, traceback = raised
        # The first frame is IPython's, and the second is the cell's.
        cell = traceback.tb_next if traceback else None
        line = self._told.lineno if isinstance(self._told, SyntaxError) else cell and cell.tb_lineno
        print(told(self._told, line))

    def _forgive(self, result: "ExecutionResult") -> None:
        if self._told is None:
            return
        if result.error_in_exec is self._told:
            result.error_in_exec = None
        if result.error_before_exec is self._told:
            result.error_before_exec = None
        self._told = None


def tell_in_one_line() -> None:
    """Begin, where IPython runs this. In a tested chapter (`LABKIT_FINDINGS=strict`) an error stays one."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is not None and os.environ.get(MODE) != "strict":
        Teller(shell)
