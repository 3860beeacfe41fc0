"""What live panels share: knobs, buttons, and streams on a loop of their own while the page moves."""

import concurrent.futures
import html
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import ipywidgets

from labkit.background import LoopThread
from labkit.errors import LabkitError
from labkit.widgets.knobs import Knob


class Panel(ipywidgets.VBox):  # type: ignore[misc]
    """Controls above and what is seen below; a subclass says what a run is.

    The streams run on a loop of their own, so the page moves even while a cell computes. An interrupt of
    `wait` stops them.
    """

    def __init__(self, knobs: Mapping[str, Knob], shown: Sequence[ipywidgets.Widget]) -> None:
        self.knobs = dict(knobs)
        self._turning = threading.RLock()
        self._thread: LoopThread | None = None
        self._runs: list[concurrent.futures.Future[None]] = []
        self._said = ipywidgets.HTML()
        self._again = self._button("run again", "play", self.start)
        buttons = [self._again, self._button("stop", "stop", self.stop), self._said]
        controls = ipywidgets.HBox([*self.knobs.values(), ipywidgets.HBox(buttons)])
        controls.layout.flex_flow = "row wrap"
        super().__init__([controls, *shown])

    def prepare(self) -> Sequence[Coroutine[Any, Any, None]]:
        """Empty what is shown, set what the knobs say, and return what is to run side by side."""
        raise NotImplementedError

    def settle(self) -> None:
        """A run has ended: show what is left to be shown."""

    def start(self) -> None:
        """Begin and return at once; a run that still goes on is stopped first."""
        with self._turning:
            self._end()
            lanes = self.prepare()
            self._thread = thread = LoopThread("labkit-panel")
            self._runs = runs = [thread.submit(lane) for lane in lanes]
        for run in runs:
            run.add_done_callback(lambda _: thread.close() if all(run.done() for run in runs) else None)

    def finish(self, timeout: float | None = None) -> None:
        """Return when all have ended.

        Raises:
            LabkitError: a request was refused, a stream broke off, or the run was stopped before its end.
            TimeoutError: they took longer than `timeout` seconds; they are stopped.
        """
        runs = self._runs
        self._again.disabled = True  # until then there is one run, and this is it
        try:
            done = concurrent.futures.wait(runs, timeout, concurrent.futures.FIRST_EXCEPTION)
        finally:
            self._again.disabled = False
            self.stop()
            self.settle()
        if any(run.cancelled() for run in runs) and not done.not_done:
            raise LabkitError("the run was stopped before its end: run this cell again")
        for run in done.done:
            run.result()
        if done.not_done:
            raise TimeoutError(f"still running after {timeout} s")

    def stop(self) -> None:
        """Stop the streams that still run; safe to call twice."""
        with self._turning:
            self._end()

    def _end(self) -> None:
        if self._thread is not None:
            self._thread.close()
            self._thread = None

    def _button(self, text: str, icon: str, press: Callable[[], None]) -> ipywidgets.Button:
        def pressed(_: object) -> None:
            try:
                press()
                self._said.value = ""
            except LabkitError as error:
                self._said.value = f"<small>{html.escape(str(error))}</small>"

        button = ipywidgets.Button(description=text, icon=icon, layout=ipywidgets.Layout(width="110px"))
        button.on_click(pressed)
        return button
