"""Live widgets for a notebook: token view, latency plot, knobs, and a static picture of them."""

from labkit.widgets.chart import chart
from labkit.widgets.knobs import FLUSH_POLICIES, Knob, flush_knob, pace_knob, streams_knob
from labkit.widgets.latency_plot import LatencyPlot
from labkit.widgets.palette import stream_colour
from labkit.widgets.picture import Picture, picture
from labkit.widgets.race import Race
from labkit.widgets.token_view import TokenView

__all__ = [
    "FLUSH_POLICIES",
    "Knob",
    "LatencyPlot",
    "Picture",
    "Race",
    "TokenView",
    "chart",
    "flush_knob",
    "pace_knob",
    "picture",
    "stream_colour",
    "streams_knob",
]
