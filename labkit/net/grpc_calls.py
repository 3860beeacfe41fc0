"""How a gRPC server reads its calls: a message within ten seconds, and one line where something fails."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from labkit.log import failure

READ_S = 10.0
_log = logging.getLogger(__name__)


class CarefulCalls(aio.ServerInterceptor):
    """Reads the messages of every method of a server.

    A call whose message does not come within `READ_S` seconds ends in DEADLINE_EXCEEDED, bytes that are no
    message of the method's in INVALID_ARGUMENT, and what a method raises in INTERNAL, with one line in the
    log. By itself gRPC waits for a message for ever, answers the other two with UNKNOWN and the name of a
    Python class, and logs a traceback. A method whose answer is a stream writes to its context.
    """

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        return None if handler is None else _careful(handler, details.method)


def _careful(handler: Any, method: str) -> Any:
    async def call(_: Any, context: Any) -> None:
        try:
            try:
                await _answer(handler, context)
            except aio.BaseError:
                raise
            except NotImplementedError:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this server does not have this method")
            except Exception as error:
                failure(_log, method, error)
                await context.abort(grpc.StatusCode.INTERNAL, "the server failed as it answered")
        except aio.InternalError:  # a write failed, as its peer has gone; gRPC would log a traceback
            raise asyncio.CancelledError from None

    return grpc.stream_stream_rpc_method_handler(call, response_serializer=handler.response_serializer)


async def _answer(handler: Any, context: Any) -> None:
    read = handler.request_deserializer
    if handler.request_streaming:
        async for reply in handler.stream_stream(_messages(read, context), context):
            await context.write(reply)
        return
    message = await _message(read, context)
    if message is None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call has no message")
    elif handler.response_streaming:
        await handler.unary_stream(message, context)
    else:
        await context.write(await handler.unary_unary(message, context))


async def _messages(read: Callable[[bytes], Any], context: Any) -> AsyncIterator[Any]:
    while (message := await _message(read, context)) is not None:
        yield message


async def _message(read: Callable[[bytes], Any], context: Any) -> Any:
    """The next message; None when the client has sent its last."""
    try:
        async with asyncio.timeout(READ_S):
            data = await context.read()
        return None if data is aio.EOF else read(data)
    except TimeoutError:
        text = f"no message came within {READ_S:g} s"
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, text)
    except DecodeError:
        text = "these bytes are no message of this method: reflection shows what it takes"
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
