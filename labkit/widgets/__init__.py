"""Live widgets for a notebook: token view, latency plot, schedule view, knobs; static pictures of them."""

from labkit.widgets.engine_panel import EnginePanel
from labkit.widgets.knobs import (
    FLUSH_POLICIES,
    Knob,
    budget_knob,
    flush_knob,
    pace_knob,
    policy_knob,
    streams_knob,
)
from labkit.widgets.latency_plot import LatencyPlot
from labkit.widgets.palette import stream_colour
from labkit.widgets.player import Replay, replay
from labkit.widgets.race import Race
from labkit.widgets.schedule_view import ScheduleView
from labkit.widgets.still.chart import chart
from labkit.widgets.still.picture import Picture
from labkit.widgets.still.schedule import schedule_picture
from labkit.widgets.still.streams import picture
from labkit.widgets.token_view import TokenView

__all__ = [
    "FLUSH_POLICIES",
    "EnginePanel",
    "Knob",
    "LatencyPlot",
    "Picture",
    "Race",
    "Replay",
    "ScheduleView",
    "TokenView",
    "budget_knob",
    "chart",
    "flush_knob",
    "pace_knob",
    "picture",
    "policy_knob",
    "replay",
    "schedule_picture",
    "stream_colour",
    "streams_knob",
]
