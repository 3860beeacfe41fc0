"""gRPC's own surface: health, reflection, status codes, limits and deadlines."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support import PATIENCE_S, Watched, settled, thread_server, until

from labkit.launch.threaded import ThreadServer
from labkit.wire.proto import inference_pb2 as pb
from servers.grpc import MOST_WATCHES

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
Call = Any


@pytest.fixture
def engine() -> Watched:
    return Watched(tokens=60_000, interval_ms=0)


@pytest.fixture
def server(engine: Watched) -> Iterator[ThreadServer]:
    with thread_server("grpc", engine) as running:
        yield running


@pytest.fixture
async def channel(server: ThreadServer) -> AsyncIterator[aio.Channel]:
    options = [("grpc.enable_http_proxy", 0)]
    async with aio.insecure_channel(f"127.0.0.1:{server.port}", options) as connected:
        yield connected


def generate(channel: aio.Channel, timeout: float | None = None, **fields: Any) -> Call:
    method = channel.unary_stream(
        "/inference.InferenceService/Generate",
        request_serializer=pb.GenerateRequest.SerializeToString,
        response_deserializer=pb.GenerateReply.FromString,
    )
    return method(pb.GenerateRequest(**{"prompt": "x", **fields}), timeout=timeout)


async def kinds(call: Call, into: list[str | None] | None = None) -> list[str | None]:
    """The kinds of the events to the call's end; `into` gets them even if it ends in an error."""
    into = [] if into is None else into
    async for reply in call:
        into += [event.WhichOneof("kind") for event in reply.events]
    return into


async def status(call: Call, into: list[str | None] | None = None) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(aio.AioRpcError) as error:
        await kinds(call, into)
    return error.value.code(), error.value.details() or ""


def health_stub(channel: aio.Channel) -> Call:
    return health_pb2_grpc.HealthStub(channel)


async def assert_serves(channel: aio.Channel) -> None:
    assert await kinds(generate(channel, max_tokens=2)) == ["started", "token", "token", "finished"]


@pytest.mark.parametrize("service", ["", "inference.InferenceService"])
async def test_health_service_says_serving(channel: aio.Channel, service: str) -> None:
    stub = health_stub(channel)
    reply = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    assert reply.status == SERVING


async def test_health_service_says_that_the_engine_answers_no_more(
    engine: Watched, channel: aio.Channel
) -> None:
    watch = health_stub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
    assert (await watch.read()).status == SERVING
    engine.close()
    reply = await health_stub(channel).Check(health_pb2.HealthCheckRequest(service=""))
    assert reply.status == NOT_SERVING
    assert (await asyncio.wait_for(watch.read(), PATIENCE_S)).status == NOT_SERVING


async def test_health_of_an_unknown_service(channel: aio.Channel) -> None:
    with pytest.raises(aio.AioRpcError) as error:
        await health_stub(channel).Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert error.value.code() is grpc.StatusCode.NOT_FOUND


async def test_health_watch_says_goodbye_when_the_server_stops(
    server: ThreadServer, channel: aio.Channel
) -> None:
    watch = health_stub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
    assert (await watch.read()).status == SERVING
    stopping = asyncio.create_task(asyncio.to_thread(server.stop))
    assert (await asyncio.wait_for(watch.read(), PATIENCE_S)).status == NOT_SERVING
    await stopping


async def test_reflection_lists_the_service_and_its_file(channel: aio.Channel) -> None:
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.InferenceService"),
    ]
    stub: Call = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]  # takes both kinds
    listed, described = [reply async for reply in stub.ServerReflectionInfo(iter(requests))]
    names = {service.name for service in listed.list_services_response.service}
    assert {"inference.InferenceService", "grpc.health.v1.Health"} <= names
    assert described.file_descriptor_response.file_descriptor_proto == [pb.DESCRIPTOR.serialized_pb]


@pytest.mark.parametrize(
    "fields",
    [{"prompt": ""}, {"max_tokens": 0}, {"max_tokens": 2**63}, {"temperature": float("nan")}, {"top_p": 0.0},
     {"seed": 2**63}, {"stop": ["a"] * 5}, {"request_id": "a b"}],
    ids=str,
)  # fmt: skip
async def test_bad_request_is_an_invalid_argument(
    channel: aio.Channel, engine: Watched, fields: dict[str, Any]
) -> None:
    code, details = await status(generate(channel, **fields))
    assert code is grpc.StatusCode.INVALID_ARGUMENT and next(iter(fields)) in details
    assert not engine.streams


async def test_oversized_message_is_refused(channel: aio.Channel, engine: Watched) -> None:
    code, _ = await status(generate(channel, prompt="x" * 300_000))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not engine.streams
    await assert_serves(channel)


async def test_unknown_method(channel: aio.Channel) -> None:
    method: Call = channel.unary_unary("/inference.InferenceService/Nothing")
    with pytest.raises(aio.AioRpcError) as error:
        await method(b"")
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_engine_failure_ends_in_internal(channel: aio.Channel, engine: Watched) -> None:
    engine.fail_after = 5
    events: list[str | None] = []
    code, details = await status(generate(channel), events)
    assert events == ["started", *["token"] * 5, "failed"]
    assert code is grpc.StatusCode.INTERNAL and "scripted to fail" in details
    engine.fail_after = None
    await assert_serves(channel)


async def test_too_many_streams_are_resource_exhausted(server: ThreadServer, channel: aio.Channel) -> None:
    server.service.admission.max_streams = 0
    assert (await status(generate(channel)))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_one_call_too_many_is_refused_at_once_and_health_still_answers(
    server: ThreadServer, channel: aio.Channel, engine: Watched
) -> None:
    engine.interval_ms = 10
    full = server.service.admission.max_streams
    calls = [generate(channel, max_tokens=60_000) for _ in range(full)]
    await asyncio.gather(*(call.read() for call in calls))
    assert (await status(generate(channel, timeout=PATIENCE_S)))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    reply = await health_stub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
    assert reply.status == SERVING
    for call in calls:
        call.cancel()
    await until(lambda: server.service.open_streams == 0, "the streams are forgotten")


async def test_health_watches_leave_places_for_health_checks_and_answers(
    server: ThreadServer, channel: aio.Channel
) -> None:
    server.service.admission.max_streams = 1
    watches = [health_stub(channel).Watch(health_pb2.HealthCheckRequest()) for _ in range(100)]
    told = await asyncio.gather(*(watch.read() for watch in watches), return_exceptions=True)
    refused = [reply for reply in told if isinstance(reply, aio.AioRpcError)]
    assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert len(told) - len(refused) == MOST_WATCHES
    reply = await health_stub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
    assert reply.status == SERVING
    assert await generate(channel, timeout=PATIENCE_S).read()
    for watch in watches:
        watch.cancel()

    async def watched() -> bool:
        with suppress(aio.AioRpcError):
            reply = await health_stub(channel).Watch(health_pb2.HealthCheckRequest()).read()
            return bool(reply.status == SERVING)
        return False

    async with asyncio.timeout(PATIENCE_S):  # a place is given back as the server sees the end
        while not await watched():
            await asyncio.sleep(0.01)


async def test_stopping_is_unavailable(server: ThreadServer, channel: aio.Channel) -> None:
    server.service.stopping = True
    assert (await status(generate(channel)))[0] is grpc.StatusCode.UNAVAILABLE


async def test_deadline_stops_the_work(server: ThreadServer, channel: aio.Channel, engine: Watched) -> None:
    engine.interval_ms = 10
    code, _ = await status(generate(channel, timeout=0.3, max_tokens=60_000))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: server.service.open_streams == 0, "the stream is forgotten")
    assert await settled(lambda: engine.streams[0].produced) < 300
    assert not engine.streams[0].wanted


async def test_cancelled_call_stops_the_work(
    server: ThreadServer, channel: aio.Channel, engine: Watched
) -> None:
    engine.interval_ms = 10
    call = generate(channel, max_tokens=60_000)
    await call.read()
    assert server.service.open_streams == 1
    call.cancel()
    await until(lambda: server.service.open_streams == 0, "the stream is forgotten")
    assert not engine.streams[0].wanted
