"""gRPC: `Generate` streams from the server in `inference.InferenceService`, with health and reflection."""

from collections.abc import AsyncIterator
from typing import Any, NoReturn, TypeAlias
from urllib.parse import unquote

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from labkit.errors import LabkitError, StartError
from labkit.events import Failed, GenerateRequest
from labkit.log import adopt
from labkit.net.grpc_poller import keep_poller
from labkit.service.admission import Caller
from labkit.service.service import Service
from labkit.wire import protobuf
from labkit.wire.proto import inference_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["InferenceService"].full_name
MAX_MESSAGE = 256 * 1024
SPARE_CALLS = 64
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
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
]


def create(service: Service) -> "GrpcListener":
    return GrpcListener(service)


class Health(health.aio.HealthServicer):
    """Reports NOT_SERVING once the engine has failed; each `Check` looks."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> Any:
        if self._service.engine.failed is not None:
            for name in ("", SERVICE):
                await self.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
        return await super().Check(request, context)


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
        calls = service.admission.max_streams + SPARE_CALLS
        self._server = aio.server(options=[*OPTIONS, ("grpc.max_concurrent_streams", calls)])
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
        for name in ("", SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return bound

    async def stop(self) -> None:
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace=0.2)
        del self._server  # its handler is a method of this listener, a cycle that would hold its core

    async def _generate(
        self,
        message: pb.GenerateRequest,
        context: Context,
    ) -> AsyncIterator[pb.GenerateReply]:
        try:
            request = protobuf.request_from_proto(GenerateRequest, message)
            delivery = self._service.generate(request, _caller(context))
        except LabkitError as error:
            await _abort(context, error.code, str(error))
        try:
            async for group in delivery:
                yield protobuf.group_to_proto(group)
                if isinstance(last := group.events[-1], Failed):
                    await _abort(context, last.code, last.message)
        finally:
            await delivery.aclose()


def _caller(context: Context) -> Caller:
    """The caller: gRPC names a peer as `ipv4:127.0.0.1:50312` or `ipv6:%5B::1%5D:50312`."""
    address = unquote(context.peer()).partition(":")[2]
    return Caller(address.rpartition(":")[0].strip("[]"))


async def _abort(context: Context, code: str, message: str) -> NoReturn:
    """End the call with the status that fits; the code itself travels in the trailing metadata."""
    await context.abort(STATUS.get(code, grpc.StatusCode.UNKNOWN), message, (("labkit-code", code),))
