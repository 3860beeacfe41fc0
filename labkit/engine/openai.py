"""An engine behind an OpenAI-compatible endpoint: vLLM, SGLang, Ollama, llama.cpp's server, Ray Serve."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Literal

import httpx

from labkit.engine import openai_answer
from labkit.engine.openai_answer import AnswerReader
from labkit.engine.openai_api import PATHS, Api, first_model, message, message_in, payload, retry_after_s
from labkit.engine.tasked import TaskEngine, TaskStream
from labkit.errors import EngineFailed, InvalidRequest, LabkitError, from_code
from labkit.events import UNCOUNTED, GenerateRequest
from labkit.net.http_client import HTTPClient, redirection
from labkit.net.loopback import is_this_machine

KEY = "OPENAI_API_KEY"
CONNECT_S = 10.0
CHECK_S = 3.0
RETRIES = 3
MAX_WAIT_S = 30.0
MAX_BODY = 1024 * 1024
NEW_LIMIT = "max_completion_tokens"
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

    A `Token` is one *chunk* of the endpoint, which may hold several tokens. `Finished.tokens` has the
    endpoint's own count where it sends one, and the log has it at DEBUG. `sampled` is the time when this
    process read the chunk. `Started` comes with the response's headers; its `prompt_tokens` is 0, because the
    endpoint gives that number with its last chunk. The thoughts of a reasoning model are left out.

    After a 429 or 503 with a `Retry-After` the request is sent again, up to 3 times within 30 s of waiting.
    Every other refusal and error ends the stream in `Failed`. While the reader stalls, the engine reads
    nothing; whether the endpoint's model waits too depends on the endpoint. When the reader leaves, the
    engine closes the connection, so that the model can stop.

    What a request leaves at its default is not sent, so the endpoint's own temperature and seed hold then.

    Args:
        url: the base, such as `http://127.0.0.1:8001/v1`, and a query if the endpoint wants one. If the
            environment variable OPENAI_API_KEY holds a key, it is sent along. A proxy of the environment is
            used for other machines alone.
        model: the model's name at the endpoint; by default the first of `GET /models`.
        api: `chat` sends the prompt as a user's message, `completions` has the model continue the prompt.
        timeout_s: the longest silence in seconds, before the first byte of an answer and between two bytes.
            After a finish_reason it is how long the next chunk, `[DONE]` or the body's end may take.
        interval_ms: the pace, the least time between two tokens of one stream; 0 is as fast as they come.
        usage: ask for the endpoint's own count (`stream_options`), which some endpoints refuse.

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
        usage: bool = False,
    ) -> None:
        super().__init__("openai", interval_ms)
        self.url, self._query = _base(url)
        self.model = model
        self.api = api
        self.timeout_s = timeout_s
        if not 0 < timeout_s <= 3600:
            raise InvalidRequest(f"timeout_s: over 0, up to 3600, not {timeout_s!r}")
        self._extra = {"stream_options": {"include_usage": True}} if usage else {}
        self._limit = "max_tokens"  # what the endpoint calls it
        self._key = os.environ.get(KEY, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise InvalidRequest(f"{KEY} has characters that no HTTP header can carry")
        self._tls = httpx.create_ssl_context() if self.url.startswith("https:") else False
        self._clients: dict[asyncio.AbstractEventLoop, HTTPClient] = {}

    async def answer(self, request: GenerateRequest, stream: TaskStream) -> None:
        try:
            stream.tokens = UNCOUNTED
            stream.finish(await self._exchange(request, stream))
        except httpx.HTTPError as error:
            raise self._failed(error) from error

    async def check(self) -> None:
        """Find out, within `CHECK_S` seconds, whether the endpoint can be asked: it lists its models.

        Raises:
            LabkitError: what a request would fail with. A list is not needed if the model has a name.
        """
        try:
            async with asyncio.timeout(CHECK_S):
                await self._first_model(self._client())
        except TimeoutError:
            raise EngineFailed(f"{self.url}: no answer in {CHECK_S:g} s") from None
        except httpx.HTTPError as error:
            raise self._failed(error) from error
        except LabkitError:
            if not self.model:
                raise

    def close(self) -> None:
        super().close()
        for loop, client in list(self._clients.items()):
            closing = client.aclose()
            try:
                asyncio.run_coroutine_threadsafe(closing, loop)
            except RuntimeError:  # the loop has ended, and its connections with it
                closing.close()

    def _client(self) -> HTTPClient:
        """The running loop's own pool of connections."""
        for closed_loop in [loop for loop in self._clients if loop.is_closed()]:
            self._clients.pop(closed_loop, None)
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = HTTPClient(
                headers={"authorization": f"Bearer {self._key}"} if self._key else None,
                timeout=httpx.Timeout(self.timeout_s, connect=min(CONNECT_S, self.timeout_s), pool=None),
                # less than the 5 s after which uvicorn closes an idle connection
                limits=httpx.Limits(max_connections=None, keepalive_expiry=2.0),
                trust_env=not is_this_machine(httpx.URL(self.url).host),  # the environment's proxies
                verify=self._tls,
            )
        return self._clients[loop]

    async def _exchange(self, request: GenerateRequest, stream: TaskStream) -> Literal["stop", "length"]:
        """Send the request and relay the answer; returns how it ended."""
        client = self._client()
        self.model = self.model or await self._first_model(client)
        async with aclosing(await self._post(client, request)) as response:
            kind = response.headers.get("content-type", "nothing")[:80]
            if not kind.lower().startswith("text/event-stream"):
                text = message_in(await self._read(response))
                raise EngineFailed(f"{self.url} answered with {kind} and not an event stream: {text}")
            stream.started(self.model, 0)
            return await self._relay(response, stream)

    async def _post(self, client: HTTPClient, request: GenerateRequest) -> httpx.Response:
        """Send the request; once more where the endpoint wants another name for its limit (see `payload`)."""
        while True:
            limit = self._limit
            body = payload(request, self.model, self.api, limit) | self._extra
            try:
                return await self._open(client, "POST", PATHS[self.api], body)
            except InvalidRequest as refusal:
                if limit == NEW_LIMIT or NEW_LIMIT not in str(refusal):
                    raise
                self._limit = NEW_LIMIT

    async def _first_model(self, client: HTTPClient) -> str:
        try:
            async with aclosing(await self._open(client, "GET", "models")) as response:
                return first_model(await self._read(response))
        except LabkitError as error:
            raise type(error)(f"{error}; or name the model, with model=NAME") from error
        except (ValueError, IndexError):
            raise EngineFailed(f"{self.url}/models lists no model: name one, with model=NAME") from None

    async def _open(
        self, client: HTTPClient, method: str, path: str, body: dict[str, Any] | None = None
    ) -> httpx.Response:
        """Send a request and return the response; send it again after a refusal with a `Retry-After`.

        Raises:
            LabkitError: the endpoint refused it; the message has the endpoint's own words, and not the query,
                in which a key may stand.
        """
        request = client.build_request(method, f"{self.url}/{path}{self._query}", json=body)
        waited, retries = 0.0, 0
        while not (response := await client.send(request, stream=True)).is_success:
            status = response.status_code
            async with aclosing(response):
                refusal = redirection(response) or message_in(await self._read(response))
            after = retry_after_s(response.headers) if status in (429, 503) else None
            if after is None or waited + after > MAX_WAIT_S or retries == RETRIES:
                advice = HINTS.get(status, "") if after is None else f" (Retry-After: {after:.0f} s)"
                text = f"{self.url}/{path}: HTTP {status}: {refusal}{advice}"
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

    async def _relay(self, response: httpx.Response, stream: TaskStream) -> Literal["stop", "length"]:
        """Pass the texts on; read up to the end of the body, so that the connection can be used again."""
        answer = AnswerReader(self.url, self._without_key)
        try:
            await self._pass_on(response.aiter_bytes(), answer, stream)
            if response.headers.keys() & {"content-length", "transfer-encoding"}:
                answer.body_ended()
        except httpx.TransportError as error:
            if not answer.whole:
                raise self._failed(error, answer.last_words) from error
        except TimeoutError:
            pass  # the answer knows whether it is whole
        stream.tokens = answer.tokens
        if answer.usage is not None:
            _log.debug("%s counts %s, in %d chunks", self.url, message(answer.usage), stream.produced)
        return answer.finish()

    async def _pass_on(self, body: AsyncIterator[bytes], answer: AnswerReader, stream: TaskStream) -> None:
        """Pass the texts on until the body ends.

        Raises:
            TimeoutError: nothing more of the answer came for `timeout_s` after its finish_reason, or the body
                went on for END_S after its end.
        """
        loop, steps = asyncio.get_running_loop(), 0
        end_s: float | None = None
        while True:
            data = await _next(body, end_s)
            if not data:
                return
            read_ns = time.monotonic_ns()
            for text in answer.feed(data):
                await stream.ready()
                stream.token(text, read_ns)
            if (answer.reason or answer.done) and answer.steps > steps:
                end_s = loop.time() + (openai_answer.END_S if answer.done else self.timeout_s)
            steps = answer.steps

    def _failed(self, error: httpx.HTTPError, last_words: str = "") -> EngineFailed:
        """The error of a connection in one line."""
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
            return EngineFailed(f"cannot connect to {self.url}: is the server running? ({error})")
        if isinstance(error, httpx.TimeoutException):
            return EngineFailed(f"{self.url}: not a byte in {self.timeout_s:g} s (timeout_s){last_words}")
        reason = str(error) or type(error).__name__
        return EngineFailed(f"{self.url}: the answer broke off: {reason}{last_words}")


async def _next(body: AsyncIterator[bytes], end_s: float | None) -> bytes:
    """The body's next bytes, nothing at its end; by `end_s` on the loop's clock if that is set.

    Raises:
        TimeoutError: they did not come by then.
    """
    if end_s is None:  # nearly every read, which is spared the timer
        return await anext(body, b"")
    async with asyncio.timeout_at(end_s):
        return await anext(body, b"")


def _base(url: str) -> tuple[str, str]:
    """The URL without its query and without a slash at its end, and the query, with its question mark.

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
    base, mark, query = url.partition("#")[0].partition("?")
    return base.rstrip("/"), mark + query
