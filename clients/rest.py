"""REST: one request, one answer; all tokens arrive at once."""

import json
import shlex
from collections.abc import AsyncGenerator

import httpx

from labkit.client import Chunk, Client
from labkit.errors import EngineFailed, Stopping
from labkit.events import Answer, Failed, GenerateRequest
from labkit.web import http
from labkit.wire import native


class RESTClient(Client):
    """`POST /generate`. The answer's tokens keep the ids that they had in the stream."""

    name = "rest"
    rank = 10
    streams = False

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._http = http.pooled(self.url)

    async def chunks(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        try:
            async with self._http.stream(
                "POST", "/generate", content=native.request_to_json(request)
            ) as response:
                received, body = await http.whole(self.name, response)
        except httpx.TransportError as error:
            raise http.lost(self, error) from error
        if response.is_success:
            yield Chunk(received, [*native.answer_from_json(Answer, body).events()])
            return
        refusal = http.refusal(response, body)
        if not isinstance(refusal, EngineFailed | Stopping):
            raise refusal
        yield Chunk(received, [Failed(0, refusal.code, str(refusal))])

    @classmethod
    def example(cls, url: str, prompt: str) -> str:
        body = shlex.quote(json.dumps({"prompt": prompt}))
        return f"{http.curl()} {url}/generate -H 'content-type: application/json' -d {body}"

    async def aclose(self) -> None:
        await self._http.aclose()
