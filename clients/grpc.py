"""gRPC: the server-streaming call `Generate`."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import grpc
from grpc import aio

from labkit.client import END_S, Chunk, Client
from labkit.errors import ConnectionLost, LabkitError, from_code
from labkit.events import GenerateRequest, Terminal
from labkit.net.grpc_poller import keep_poller
from labkit.wire import MAX_MESSAGE, protobuf
from labkit.wire.proto import inference_pb2 as pb

METHOD = "/inference.InferenceService/Generate"
# What gRPC itself refuses, before the server's own code sees the call.
CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: "invalid_request",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "too_large",
}
UNREACHABLE = ("failed to connect", "errors resolving", "DNS resolution failed")  # gRPC's own first words
OPTIONS = [
    # By itself gRPC lets a server run ahead by 16 MiB; so backpressure comes after some 3,000 tokens.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 32 * 1024),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
]

DRAIN_OPTIONS = [
    # Without a pool of its own, a channel shares its connection with all others to the same address.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]


class GRPCClient(Client):
    """One channel; each request is one call on it."""

    name = "grpc"
    rank = 40
    cpu_target = 8.0

    def __init__(self, url: str) -> None:
        super().__init__(url)
        keep_poller()
        self._channel = aio.insecure_channel(_target(url), options=OPTIONS)
        self._generate = self._channel.unary_stream(
            METHOD,
            request_serializer=pb.GenerateRequest.SerializeToString,
            response_deserializer=pb.GenerateReply.FromString,
        )

    async def chunks(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        call = self._generate(protobuf.request_to_proto(request))
        try:
            async for reply in call:
                received = time.monotonic_ns()
                events = protobuf.group_from_proto(reply)
                yield Chunk(received, events)
                if isinstance(events[-1], Terminal):
                    await _read_out(call)
                    return
        except aio.AioRpcError as error:
            raise self._error(error) from error
        finally:
            call.cancel()

    def _error(self, error: aio.AioRpcError) -> LabkitError:
        details = error.details() or str(error.code())
        metadata = dict(error.trailing_metadata() or ())
        code = metadata.get("labkit-code") or CODES.get(error.code())
        if code:
            return from_code(str(code), details)
        unreachable = error.code() is grpc.StatusCode.UNAVAILABLE and details.startswith(UNREACHABLE)
        return self.unreachable(details) if unreachable else ConnectionLost(f"{self.name}: {details}")

    @classmethod
    async def drain(cls, url: str, request: GenerateRequest, answers: int) -> None:
        question = protobuf.request_to_proto(request).SerializeToString()
        async with aio.insecure_channel(_target(url), options=DRAIN_OPTIONS) as channel:
            generate: aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(
                METHOD, request_serializer=None, response_deserializer=None
            )
            try:
                for _ in range(answers):
                    async for _reply in generate(question):
                        pass
            except aio.AioRpcError as error:
                raise ConnectionLost(f"{cls.name}: {error.details()}") from None

    async def aclose(self) -> None:
        await self._channel.close()


def _target(url: str) -> str:
    return url.partition("://")[2].rstrip("/")


async def _read_out(call: "aio.UnaryStreamCall[Any, Any]") -> None:
    """Wait for the call's status, since gRPC logs an error on another loop if this one closes before it."""
    with suppress(TimeoutError, aio.AioRpcError):
        async with asyncio.timeout(END_S):
            async for _ in call:
                pass
