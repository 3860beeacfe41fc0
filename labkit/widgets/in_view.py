"""InView: the mark on a panel by which the page scrolls to it when it appears, so that it stays in view."""

import anywidget

from labkit.widgets.live_view import page_files


class InView(anywidget.AnyWidget):
    """An element without a height. When it appears in a cell that runs, the page shows the widget around it.

    Without it, a cell that runs for a while is out of view after *Run All*, and its knobs lie under the
    toolbar after *Shift+Enter*. Whoever scrolls keeps the page where it is.
    """

    _esm = page_files("in_view.js")
