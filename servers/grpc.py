"""gRPC: `Generate` streams from the server in `inference.InferenceService`, with health and reflection."""

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any, NoReturn, TypeAlias
from urllib.parse import unquote

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from labkit.errors import LabkitError, StartError
from labkit.events import Failed, GenerateRequest
from labkit.log import adopt
from labkit.net.grpc_calls import CarefulCalls
from labkit.net.grpc_poller import keep_poller
from labkit.service.admission import Caller
from labkit.service.service import Service
from labkit.wire import protobuf
from labkit.wire.proto import inference_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["InferenceService"].full_name
MAX_MESSAGE = 256 * 1024
MAX_METADATA = 16 * 1024
WRITE_S = 360.0
WATCH_S = 1.0  # how often a health watch looks at the engine
SPARE_CALLS = 64
MOST_WATCHES = SPARE_CALLS // 2  # of one connection, so that a health check still gets through beside them
SPARE_CONNECTIONS = 256  # with as many for the default of streams, half of the 1,024 files of many systems
STATUS = {
    "invalid_request": grpc.StatusCode.INVALID_ARGUMENT,
    "too_large": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "overloaded": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "stopping": grpc.StatusCode.UNAVAILABLE,
    "engine_failed": grpc.StatusCode.INTERNAL,
}
Context: TypeAlias = "aio.ServicerContext[pb.GenerateRequest, pb.GenerateReply]"
OPTIONS = [
    ("grpc.so_reuseport", 0),  # otherwise a second server on the same port would start without an error
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    # With the first alone, gRPC refuses by chance what is up to a quarter larger.
    ("grpc.max_metadata_size", MAX_METADATA),
    ("grpc.absolute_max_metadata_size", MAX_METADATA),
    # Whoever sends nothing, or only a part of something, for ten seconds loses the connection.
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 10_000),
    # So does who leaves a ping without an answer for ten seconds, as a process does that stands still. The
    # third is 60 s by default, and gRPC waits for the longer of the two.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.experimental.tcp_max_read_buffer_size", 64 * 1024),  # else a flood is read 4 MiB at a time
]


def create(service: Service) -> "GrpcListener":
    return GrpcListener(service)


class Health(health_pb2_grpc.HealthServicer):
    """The standard health service: NOT_SERVING once the engine has failed or the server stops.

    The servicer that comes with gRPC writes to a watcher under a lock that `stop` and all watchers need. So
    one peer that takes nothing would keep the others waiting.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stopping = asyncio.Event()
        self._watches: Counter[str] = Counter()

    def stop(self) -> None:
        self._stopping.set()

    def _status(self, name: str) -> Any:
        if name not in ("", SERVICE):
            return health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        ended = self._stopping.is_set() or self._service.engine.failed is not None
        return health_pb2.HealthCheckResponse.NOT_SERVING if ended else health_pb2.HealthCheckResponse.SERVING

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> Any:
        status = self._status(request.service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "this server has no such service")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        peer = context.peer()
        if self._watches[peer] >= MOST_WATCHES:
            await _abort(context, "overloaded", f"a connection has at most {MOST_WATCHES} health watches")
        self._watches[peer] += 1
        try:
            await self._tell(request.service, context)
        finally:
            self._watches[peer] -= 1
            self._watches += Counter()  # forgets who has none

    async def _tell(self, name: str, context: Any) -> None:
        """Write the status whenever it changes, until the server stops."""
        told = None
        while True:
            stopping = self._stopping.is_set()
            if (status := self._status(name)) != told:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                told = status
            if stopping:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), WATCH_S)


class GrpcListener:
    """Runs the service on the running loop."""

    scheme = "grpc"

    def __init__(self, service: Service) -> None:
        keep_poller()
        self._service = service
        adopt("grpc")
        self._health = Health(service)
        # Above the service's own limit, so that the service refuses one too many at once and a health check
        # still gets through. A call beyond the transport's limit would wait silently.
        streams = service.admission.max_streams
        limits = [
            ("grpc.max_concurrent_streams", streams + SPARE_CALLS),
            ("grpc.max_allowed_incoming_connections", streams + SPARE_CONNECTIONS),
        ]
        self._server = aio.server(interceptors=[CarefulCalls()], options=[*OPTIONS, *limits])
        handler = grpc.unary_stream_rpc_method_handler(
            self._generate,
            request_deserializer=pb.GenerateRequest.FromString,
            response_serializer=pb.GenerateReply.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(SERVICE, {"Generate": handler})]
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            [SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server
        )

    async def start(self, host: str, port: int) -> int:
        try:
            bound = self._server.add_insecure_port(f"{f'[{host}]' if ':' in host else host}:{port}")
        except RuntimeError:
            bound = 0
        if not bound:
            raise StartError(
                f"cannot listen on {host}:{port}: the port is in use; choose another, or 0 for any free one"
            )
        await self._server.start()
        return bound

    async def stop(self) -> None:
        self._health.stop()
        await self._server.stop(grace=0.2)
        del self._server  # its handler is a method of this listener, a cycle that would hold its core

    async def _generate(self, message: pb.GenerateRequest, context: Context) -> None:
        try:
            request = protobuf.request_from_proto(GenerateRequest, message)
            delivery = self._service.generate(request, _caller(context))
        except LabkitError as error:
            await _abort(context, error.code, str(error))
        limit = WriteLimit()
        try:
            async for group in delivery:
                limit.writing = group.events[-1].id
                await context.write(protobuf.group_to_proto(group))
                limit.writing = None
                if isinstance(last := group.events[-1], Failed):
                    await _abort(context, last.code, last.message)
        except asyncio.CancelledError:
            if not limit.lost:
                raise
            await delivery.aclose()  # gives its place back: the status goes out when the reader reads on
            await _abort(context, "connection_lost", f"the reader took nothing for {WRITE_S:g} s")
        finally:
            limit.end()
            await delivery.aclose()


class WriteLimit:
    """Cancels the task that makes it once a write has waited from one look to the next, `WRITE_S` seconds.

    A server of gRPC sees what a peer takes only when the peer opens its window again, and libraries do that
    in steps: Node's in steps of 64 KiB, for which somebody who reads ten tokens a second takes 345 s. So ten
    seconds would cut every reader of a fast engine. What fits into the window is taken at once, read or not:
    64 KiB in Node, 16 MiB in Python by default. A peer that answers no more, since its process or its host
    stands still, is noticed by pings within 15 s.
    """

    def __init__(self) -> None:
        self.writing: int | None = None  # the last id of the group that is being written
        self.lost = False
        self._seen: int | None = None
        self._task = asyncio.current_task()
        self._wait()

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(WRITE_S, self._look)

    def _look(self) -> None:
        if self.writing is not None and self.writing == self._seen and self._task is not None:
            self.lost = True
            self._task.cancel()
        else:
            self._seen = self.writing
            self._wait()

    def end(self) -> None:
        self._timer.cancel()


def _caller(context: Context) -> Caller:
    """The caller: gRPC names a peer as `ipv4:127.0.0.1:50312` or `ipv6:%5B::1%5D:50312`."""
    address = unquote(context.peer()).partition(":")[2]
    return Caller(address.rpartition(":")[0].strip("[]"))


async def _abort(context: Context, code: str, message: str) -> NoReturn:
    """End the call with the status that fits; the code itself travels in the trailing metadata."""
    await context.abort(STATUS.get(code, grpc.StatusCode.UNKNOWN), message, (("labkit-code", code),))
