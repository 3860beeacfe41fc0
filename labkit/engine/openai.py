"""An engine behind an OpenAI-compatible endpoint: vLLM, SGLang, Ollama, llama.cpp's server, Ray Serve."""

import asyncio
import logging
import os
import time
from contextlib import aclosing

import httpx
import msgspec

from labkit.engine.openai_api import (
    DONE,
    PATHS,
    Api,
    CompletionChunk,
    Models,
    message,
    message_in,
    payload,
    retry_after_s,
)
from labkit.engine.tasked import TaskEngine, TaskStream
from labkit.errors import EngineFailed, InvalidRequest, LabkitError, from_code
from labkit.events import GenerateRequest
from labkit.wire.eventstream import Parser

KEY = "OPENAI_API_KEY"
CONNECT_S = 10.0
END_S = 2.0  # how long a body may go on after the end of its answer
RETRIES = 3
MAX_WAIT_S = 30.0
MAX_EVENT = 1024 * 1024
MAX_BODY = 1024 * 1024
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
CODES = {
    400: "invalid_request",
    413: "too_large",
    422: "invalid_request",
    429: "overloaded",
    503: "overloaded",
}
HINTS = {
    401: f" (the key comes from the environment variable {KEY})",
    403: f" (the key comes from the environment variable {KEY})",
    404: " (the URL is the base, which often ends in /v1; its /models lists the models)",
}

_log = logging.getLogger(__name__)


class OpenAIEngine(TaskEngine):
    """Passes each request on to the endpoint, and the chunks of its answer back.

    A `Token` is one *chunk* of the endpoint, which may hold several tokens, so `completion_tokens` counts
    chunks; the log has the endpoint's own count at DEBUG. `sampled` is the time when this process read the
    chunk. `Started` comes with the response's headers; its `prompt_tokens` is 0, because the endpoint gives
    that number with its last chunk. The thoughts of a reasoning model are left out.

    After a 429 or 503 with a `Retry-After` the request is sent again, up to 3 times within 30 s of waiting.
    Every other refusal and error ends the stream in `Failed`. While the reader stalls, the engine reads
    nothing; whether the endpoint's model waits too depends on the endpoint. When the reader leaves, the
    engine closes the connection, so that the model can stop.

    Args:
        url: the base, such as `http://127.0.0.1:8001/v1`. If the environment variable OPENAI_API_KEY holds a
            key, it is sent along.
        model: the model's name at the endpoint; by default the first of `GET /models`.
        api: `chat` sends the prompt as a user's message, `completions` has the model continue the prompt.
        timeout_s: the longest silence in seconds, before the first byte of an answer and between two bytes.
        interval_ms: the pace, the least time between two tokens of one stream; 0 is as fast as they come.

    Raises:
        InvalidRequest: the URL is not valid or has a key in it, or an option is out of range.
    """

    def __init__(
        self,
        url: str,
        model: str = "",
        api: Api = "chat",
        timeout_s: float = 60.0,
        interval_ms: float = 0.0,
    ) -> None:
        super().__init__("openai", interval_ms)
        self.url = _base(url)
        self.model = model
        self.api = api
        self.timeout_s = timeout_s
        if not 0 < timeout_s <= 3600:
            raise InvalidRequest(f"timeout_s: over 0, up to 3600, not {timeout_s!r}")
        self._key = os.environ.get(KEY, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise InvalidRequest(f"{KEY} has characters that no HTTP header can carry")
        self._tls = httpx.create_ssl_context() if self.url.startswith("https:") else False
        self._clients: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}

    async def answer(self, request: GenerateRequest, stream: TaskStream) -> None:
        try:
            finish_reason = await self._exchange(request, stream)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise EngineFailed(f"cannot connect to {self.url}: is the server running? ({error})") from error
        except httpx.TimeoutException as error:
            raise EngineFailed(f"{self.url}: not a byte in {self.timeout_s:g} s (timeout_s)") from error
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise EngineFailed(f"{self.url}: the answer broke off: {reason}") from error
        match finish_reason:
            case "stop" | "length":
                stream.finish(finish_reason)
            case other:
                raise EngineFailed(
                    f"{self.url}: the answer broke off: its finish_reason is {message(other)!r}"
                )

    def close(self) -> None:
        super().close()
        for loop, client in list(self._clients.items()):
            closing = client.aclose()
            try:
                asyncio.run_coroutine_threadsafe(closing, loop)
            except RuntimeError:  # the loop has ended, and its connections with it
                closing.close()

    def _client(self) -> httpx.AsyncClient:
        """The running loop's own pool of connections."""
        for closed_loop in [loop for loop in self._clients if loop.is_closed()]:
            self._clients.pop(closed_loop, None)
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = httpx.AsyncClient(
                base_url=self.url,
                headers={"authorization": f"Bearer {self._key}"} if self._key else None,
                timeout=httpx.Timeout(self.timeout_s, connect=min(CONNECT_S, self.timeout_s), pool=None),
                # less than the 5 s after which uvicorn closes an idle connection, so that we do not use one
                # that is about to close
                limits=httpx.Limits(max_connections=None, keepalive_expiry=2.0),
                trust_env=httpx.URL(self.url).host not in LOOPBACK,  # the environment's proxies
                verify=self._tls,
            )
        return self._clients[loop]

    async def _exchange(self, request: GenerateRequest, stream: TaskStream) -> str:
        """Send the request and relay the answer; returns its `finish_reason`."""
        client = self._client()
        self.model = self.model or await self._first_model(client)
        body = payload(request, self.model, self.api)
        post = client.build_request("POST", PATHS[self.api], json=body)
        async with aclosing(await self._open(client, post)) as response:
            kind = response.headers.get("content-type", "nothing")[:80]
            if not kind.startswith("text/event-stream"):
                text = message_in(await self._read(response))
                raise EngineFailed(f"{post.url} answered with {kind} and not an event stream: {text}")
            stream.started(self.model, 0)
            return await self._relay(response, stream)

    async def _first_model(self, client: httpx.AsyncClient) -> str:
        try:
            async with aclosing(await self._open(client, client.build_request("GET", "models"))) as response:
                return msgspec.json.decode(await self._read(response), type=Models).data[0].id
        except LabkitError as error:
            raise type(error)(f"{error}; or name the model, with model=NAME") from error
        except (ValueError, IndexError):
            raise EngineFailed(f"{self.url}/models lists no model: name one, with model=NAME") from None

    async def _open(self, client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
        """Send the request and return the response; send it again after a refusal with a `Retry-After`.

        Raises:
            LabkitError: the endpoint refused it; the message has the endpoint's own words.
        """
        waited, retries = 0.0, 0
        while not (response := await client.send(request, stream=True)).is_success:
            status = response.status_code
            async with aclosing(response):
                refusal = message_in(await self._read(response))
            after = retry_after_s(response.headers) if status in (429, 503) else None
            if after is None or waited + after > MAX_WAIT_S or retries == RETRIES:
                advice = HINTS.get(status, "") if after is None else f" (Retry-After: {after:.0f} s)"
                text = f"{request.url}: HTTP {status}: {refusal}{advice}"
                raise from_code(CODES.get(status, "engine_failed"), text)
            await asyncio.sleep(after)
            waited, retries = waited + after, retries + 1
        return response

    async def _read(self, response: httpx.Response) -> str:
        """The first MAX_BODY bytes of the body, without the key: some endpoints repeat it in errors."""
        body = b""
        async for data in response.aiter_bytes():
            body += data
            if len(body) > MAX_BODY:
                break
        return self._without_key(body[:MAX_BODY].decode("utf-8", "replace"))

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text

    async def _relay(self, response: httpx.Response, stream: TaskStream) -> str:
        """Pass the content on; read up to the end of the body, so that the connection can be used again."""
        parser, unparsed, over, reason = Parser(), 0, False, ""
        body = response.aiter_bytes()
        try:
            while True:
                async with asyncio.timeout(END_S if over else None):
                    data = await anext(body, b"")
                if not data:
                    break
                read_ns = time.monotonic_ns()
                events = parser.feed(data)
                unparsed = 0 if events else unparsed + len(data)
                if unparsed > MAX_EVENT:
                    raise EngineFailed(f"{self.url} sent an event of over {MAX_EVENT} bytes")
                for event in events:
                    reason = await self._pass_on(event.data, stream, read_ns) or reason
                    over = over or bool(reason) or event.data == DONE
        except (httpx.TransportError, TimeoutError):
            if not over:
                raise
        if not reason:
            raise EngineFailed(f"{self.url}: the answer broke off, without a finish_reason")
        return reason

    async def _pass_on(self, data: str, stream: TaskStream, read_ns: int) -> str:
        """Pass one event of the answer on; return its `finish_reason`, or "" if it has none."""
        if data == DONE:
            return ""
        try:
            chunk = CompletionChunk.parse(data)
        except ValueError as error:
            raise EngineFailed(f"{self.url} sent what is no chunk: {message(error)}") from error
        if chunk.error:
            raise EngineFailed(f"{self.url}: {message_in(self._without_key(data))}")
        if chunk.usage is not None:
            _log.debug("%s counts %s, in %d chunks", self.url, chunk.usage, stream.produced)
        for choice in chunk.choices or ():
            if choice.content:
                await stream.ready()
                stream.token(choice.content, read_ns)
            if choice.finish_reason:
                return choice.finish_reason
        return ""


def _base(url: str) -> str:
    """The URL without a slash at its end.

    Raises:
        InvalidRequest: it is not an HTTP URL, or has a key in it.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.userinfo:
        raise InvalidRequest(f"put the key into the environment variable {KEY}, not into the URL")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidRequest(f"{url!r} is no base URL; http://127.0.0.1:8001/v1 would be one")
    return url.rstrip("/")
