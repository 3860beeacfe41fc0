"""Knobs that act on streams while they run: flush, pace, number of streams, scheduling policy, budget."""

import html
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets

from labkit.engine.policies import POLICIES

FLUSH_POLICIES = {
    "every token": "token",
    "every 2 tokens": "tokens:2",
    "every 4 tokens": "tokens:4",
    "every 8 tokens": "tokens:8",
    "every 16 tokens": "tokens:16",
    "every 32 tokens": "tokens:32",
    "every 50 ms": "ms:50",
    "every 100 ms": "ms:100",
    "every 250 ms": "ms:250",
    "every 500 ms": "ms:500",
}
"""The flush policy for each text on the flush knob."""

BUDGETS = {"no limit": 0, "512": 512, "256": 256, "128": 128, "64": 64, "32": 32, "16": 16}
"""The most tokens of an iteration for each text on the budget knob; 0 for no limit."""

_RED = '<small style="color: var(--jp-error-color1, #b3261e)">{}</small>'


class Knob(ipywidgets.VBox):  # type: ignore[misc]
    """A control and, beneath it, the last error of its callback, until a call succeeds.

    `on_change` gets the new value in the thread that handles the page's message. That may be any thread, even
    one with a loop, and a cell may run meanwhile, so `on_change` should only store the value. `error` is
    `Type: message` of the error that the last call raised, or empty. `words` is the position as a plot names
    it: "{label}" in it stands for the value as the control shows it.
    """

    def __init__(
        self, name: str, control: Any, on_change: Callable[[Any], None], words: str = "{label}"
    ) -> None:
        self.name = name
        self.control = control
        self._words = words
        self.error = ""
        self._on_change = on_change
        self._message = ipywidgets.HTML(layout=ipywidgets.Layout(display="none", margin="0 0 0 72px"))
        control.layout.width, control.layout.max_width = "460px", "98%"
        control.style.description_width = "64px"
        super().__init__([control, self._message])
        control.observe(self._changed, names="value")

    @property
    def value(self) -> Any:
        """The knob's position; setting it calls `on_change`, as a move in the page does."""
        return self.control.value

    @value.setter
    def value(self, value: Any) -> None:
        self.control.value = value

    @property
    def words(self) -> str:
        """The position in words, as "every 8 tokens" or "50 ms a token"."""
        label = getattr(self.control, "label", None)
        return self._words.format(label=f"{self.value:g}" if label is None else label)

    def __repr__(self) -> str:
        return f"Knob({self.name})"

    def _changed(self, change: dict[str, Any]) -> None:
        try:
            self._on_change(change["new"])
        except Exception as error:
            self._show(f"{type(error).__name__}: {error}")
        else:
            self._show("")

    def _show(self, error: str) -> None:
        self.error = error
        self._message.value = _RED.format(html.escape(error))
        self._message.layout.display = None if error else "none"


def flush_knob(on_change: Callable[[str], None], value: str = "token") -> Knob:
    """Make a slider over FLUSH_POLICIES; `on_change` gets the policy: "token", "tokens:N" or "ms:T".

    Raises:
        ValueError: `value` is none of those policies.
    """
    return _choice_knob("flush", FLUSH_POLICIES, on_change, value)


def pace_knob(on_change: Callable[[float], None], value: float = 20.0) -> Knob:
    """Make a slider of the engine's pace; `on_change` gets the interval between tokens in ms, 0 to 200.

    Raises:
        ValueError: `value` is out of that range.
    """
    if not 0 <= value <= 200:
        raise ValueError(f"pace is 0 to 200 ms, not {value}")
    control = ipywidgets.FloatSlider(
        min=0, max=200, step=1, value=value, description="pace, ms", readout_format=".0f"
    )
    return Knob("pace", control, on_change, "{label} ms a token")


def streams_knob(on_change: Callable[[int], None], most: int, value: int = 1) -> Knob:
    """Make a slider of how many streams run at once, 1 to `most`; `on_change` gets the number.

    Raises:
        ValueError: `value` is out of that range.
    """
    if not 1 <= value <= most:
        raise ValueError(f"streams are 1 to {most}, not {value}")
    control = ipywidgets.IntSlider(min=1, max=most, value=value, description="streams")
    return Knob("streams", control, on_change, "{label} streams")


def policy_knob(on_change: Callable[[str], None], value: str = "sarathi") -> Knob:
    """Make a list of the scheduling policies; `on_change` gets a name.

    Raises:
        ValueError: `value` is none of them.
    """
    if value not in POLICIES:
        raise ValueError(f"no policy {value!r}: there are {', '.join(POLICIES)}")
    control = ipywidgets.Dropdown(options=list(POLICIES), value=value, description="policy")
    return Knob("policy", control, on_change)


def budget_knob(on_change: Callable[[int], None], value: int = 0) -> Knob:
    """Make a slider of the most tokens of an iteration; `on_change` gets a number of BUDGETS.

    Raises:
        ValueError: `value` is none of those.
    """
    return _choice_knob("budget", BUDGETS, on_change, value, "budget: {label}")


def _choice_knob(
    name: str,
    choices: Mapping[str, Any],
    on_change: Callable[[Any], None],
    value: Any,
    words: str = "{label}",
) -> Knob:
    if value not in choices.values():
        raise ValueError(f"no such {name} on the knob: {value!r}; it has {[*choices.values()]}")
    control = ipywidgets.SelectionSlider(options=list(choices.items()), value=value, description=name)
    return Knob(name, control, on_change, words)
