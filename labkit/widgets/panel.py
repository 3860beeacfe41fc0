"""What live panels share: knobs, buttons, and streams on a loop of their own, so that the page moves."""

import concurrent.futures
import html
import inspect
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

import ipywidgets
from IPython.display import display

from labkit.background import LoopThread
from labkit.errors import LabkitError
from labkit.widgets.in_view import InView
from labkit.widgets.knobs import Knob
from labkit.widgets.still.picture import Picture

Result = TypeVar("Result")


class Panel(ipywidgets.VBox, Generic[Result]):  # type: ignore[misc]
    """Controls above, views below; a subclass says what a run is, and what it results in.

        result = panel.live()   # one cell: the panel starts by itself, and its picture stays in the notebook

    The streams run on a loop of their own, so the page moves even while a cell computes. An interrupt of
    `finish` stops them.

    Args:
        knobs: every knob there is, by name.
        chosen: the names of the knobs on the panel, in order.
        views: what is shown below the controls.

    Raises:
        ValueError: a chosen name is none of the knobs.
    """

    def __init__(
        self, knobs: Mapping[str, Knob], chosen: Sequence[str], views: Sequence[ipywidgets.Widget]
    ) -> None:
        if unknown := set(chosen) - set(knobs):
            raise ValueError(f"no knob {', '.join(unknown)}: there are {', '.join(knobs)}")
        self.knobs = {name: knobs[name] for name in chosen}
        self._turning = threading.RLock()
        self._thread: LoopThread | None = None
        self._runs: list[concurrent.futures.Future[None]] = []
        self._message = ipywidgets.HTML()
        self._again = self._button("run again", "play", self.start)
        buttons = [self._again, self._button("stop", "stop", self.stop), self._message]
        controls = ipywidgets.HBox([*self.knobs.values(), ipywidgets.HBox(buttons)])
        controls.layout.flex_flow = "row wrap"
        self._in_view = InView()
        for knob in self.knobs.values():
            knob.control.observe(lambda _, knob=knob: self._turned(knob), names="value")
        super().__init__([controls, *views, self._in_view])

    def prepare(self) -> Sequence[Coroutine[Any, Any, None]]:
        """Empty the views, apply the knobs, and return the coroutines that run side by side."""
        raise NotImplementedError

    def settle(self) -> None:
        """Show what is left when a run has ended."""

    def turned(self, text: str) -> None:
        """Leave a mark where a knob was turned during a run; `text` says to what."""

    def run(self, timeout: float | None = None) -> Result:
        """Begin, and return the result when every stream has ended; raise what `finish` raises."""
        raise NotImplementedError

    def picture(self) -> Picture:
        """Draw what the panel shows, as a picture that stays in the saved notebook."""
        raise NotImplementedError

    @property
    def running(self) -> bool:
        """Whether a run is under way."""
        return not all(run.done() for run in self._runs)

    def live(self, timeout: float | None = None) -> Result:
        """Show the panel, keep it in view, and return what `run` returns; the picture stays below it.

        Without `timeout` there is no limit. It raises what `run` raises; then the picture shows what came.
        """
        try:
            display(self)  # type: ignore[no-untyped-call]
            return self.run(timeout)
        finally:
            with suppress(ValueError):  # nothing has come that could be drawn
                display(self.picture())  # type: ignore[no-untyped-call]

    def start(self) -> None:
        """Begin a run and return at once; stop a run that still goes on first. *run again* does this."""
        with self._turning:
            self._end()
            coroutines = self.prepare()
            try:
                self._thread = thread = LoopThread("labkit-panel")
                self._runs = runs = [thread.submit(coroutine) for coroutine in coroutines]
                for run in runs:
                    run.add_done_callback(
                        lambda _: thread.close() if all(run.done() for run in runs) else None
                    )
            except BaseException:  # an interrupt
                self._end()
                for coroutine in coroutines:
                    if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                        coroutine.close()  # else Python warns of it in the cell
                raise

    def finish(self, timeout: float | None = None) -> None:
        """Return when every stream has ended; if *run again* is pressed meanwhile, those of the new run.

        Raises:
            LabkitError: a request was refused, a stream broke off, or the run was stopped before its end.
            TimeoutError: the run took longer than `timeout` seconds; it is stopped.
        """
        try:
            while not self._over(runs := self._runs, timeout):
                pass
        finally:
            self.stop()
            self.settle()
        for run in runs:
            if failed(run):
                run.result()
        if any(run.cancelled() for run in runs):
            raise LabkitError("The run was stopped before its end. For its result, run this cell again.")

    def _over(self, runs: Sequence[concurrent.futures.Future[None]], timeout: float | None) -> bool:
        """Wait for the end of these runs, or of the first that fails; return whether none took their place.

        Raises:
            TimeoutError: some still run after `timeout` seconds.
        """
        done = concurrent.futures.wait(runs, timeout, concurrent.futures.FIRST_EXCEPTION)
        with self._turning:  # held by `start` from the end of a run to the beginning of the next
            if self._runs is not runs:
                return False
            self._end()
        if done.not_done and not any(failed(run) for run in done.done):
            raise TimeoutError(f"still running after {timeout} s")
        return True

    def stop(self) -> None:
        """Stop the streams that still run; safe to call twice."""
        with self._turning:
            self._end()

    def _turned(self, knob: Knob) -> None:
        if self.running:
            self.turned(knob.words)

    def _end(self) -> None:
        if self._thread is not None:
            self._thread.close()
            self._thread = None

    def _button(self, text: str, icon: str, press: Callable[[], None]) -> ipywidgets.Button:
        def pressed(_: object) -> None:
            try:
                press()
                self._message.value = ""
            except Exception as error:  # such as that of a server that was stopped; a learner needs its line
                self._message.value = f"<small>{html.escape(str(error))}</small>"

        button = ipywidgets.Button(description=text, icon=icon, layout=ipywidgets.Layout(width="110px"))
        button.on_click(pressed)
        return button


def failed(run: concurrent.futures.Future[None]) -> bool:
    """Whether a run has ended with an error; one that was stopped has not."""
    return run.done() and not run.cancelled() and run.exception() is not None
