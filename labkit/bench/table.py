"""Tables of figures for a terminal, narrow enough for 80 columns."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from labkit.bench.machine import Machine


def table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Group:
    """A plain table with the names on the left and the figures on the right.

    The title may be wider than the table.
    """
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)
    for index, heading in enumerate(headings):
        grid.add_column(heading, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*row)
    return Group(Text(title, style="bold"), grid)


def number(value: float | None, digits: int = 1) -> str:
    """A figure as text: a dash if it is undefined, and no digits after the point from 10,000 on."""
    if value is None:
        return "–"
    return f"{value:,.{0 if abs(value) >= 10_000 else digits}f}"


def met(is_met: bool) -> str:
    """The mark beside a target, in rich's markup."""
    return "[green]met[/]" if is_met else "[red]not met[/]"


def machine_line(machine: Machine) -> Text:
    """One line on the machine, for the foot of a table."""
    load = " ".join(f"{value:.1f}" for value in machine.load_average)
    text = f"{machine.cpu}, {machine.cores} cores, Python {machine.python}, load before: {load}"
    return Text(text, style="dim")
