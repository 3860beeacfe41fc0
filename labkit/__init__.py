"""labkit: learn, by doing and measuring, how a client should talk to a model."""

from labkit.client import Client, Recording
from labkit.engine import Engine, create_engine
from labkit.engine.text_stream import TokenStream
from labkit.events import Event, Failed, Finished, GenerateRequest, Started, Token
from labkit.launch.launcher import serve, stop_all
from labkit.launch.server import Server
from labkit.log import keep_to_the_log

__version__ = "0.1.0"

keep_to_the_log()

__all__ = [
    "Client",
    "Engine",
    "Event",
    "Failed",
    "Finished",
    "GenerateRequest",
    "Recording",
    "Server",
    "Started",
    "Token",
    "TokenStream",
    "create_engine",
    "serve",
    "stop_all",
]
