"""An answer of an OpenAI-compatible endpoint as it comes: its bytes into text, and whether it is whole."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

from labkit.engine.openai_api import CompletionChunk, message, message_in
from labkit.errors import ConnectionLost, EngineFailed
from labkit.events import UNCOUNTED
from labkit.wire.eventstream import Parser, ServerSentEvent

DONE = "[DONE]"
END_S = 2.0  # how long the body may go on after `[DONE]`
MOST_TOKENS = 2**53  # what every wire can carry; a greater count is none
TAIL = 4096
PINGS = ("ping", "heartbeat", "keepalive", "keep-alive")
FIELDS = ("event:", "id:", "retry:", ":")

STOP = (
    "stop eos eos_token eos_found eot end_turn end_of_text endoftext stop_sequence stop_token stop_str "
    "stopped complete completed end done finished"
)
LENGTH = (
    "length max_tokens max_length maximum_tokens max_output_tokens max_new_tokens max_completion_tokens "
    "token_limit model_length model_context_window_exceeded"
)
REASONS: dict[str, Literal["stop", "length"]] = {
    **dict.fromkeys(STOP.split(), "stop"),
    **dict.fromkeys(LENGTH.split(), "length"),
}
"""What OpenAI, Mistral, Anthropic, Gemini, Cohere, TGI and their like call the two good ends of an answer."""


class AnswerReader:
    """Reads one answer: lenient in what it takes for a chunk, strict in what it takes for an end.

    An answer is whole when it has a finish_reason, and `[DONE]` or the proper end of its body (`body_ended`)
    has come. Some endpoints write a reason on every chunk. So where the connection breaks or falls silent
    before that, a reason counts only if it came alone, and no text after it.

    Args:
        name: what the endpoint is called in errors.
        clean: takes what nobody may see out of the endpoint's words.
    """

    def __init__(self, name: str, clean: Callable[[str], str] = str) -> None:
        self.done = False
        self.reason = ""
        self.usage: Any = None
        self.steps = 0  # chunks and `[DONE]`; neither comments nor pings
        self._name = name
        self._clean = clean
        self._parser = Parser()
        self._text_last = False
        self._tail = bytearray()

    @property
    def whole(self) -> bool:
        """Whether nothing more is needed: what still comes cannot make another answer of it."""
        return bool(self.reason) and (self.done or not self._text_last)

    @property
    def tokens(self) -> int:
        """The endpoint's own count of the answer's tokens, or UNCOUNTED."""
        count = self.usage.get("completion_tokens") if isinstance(self.usage, dict) else None
        return count if type(count) is int and 0 < count <= MOST_TOKENS else UNCOUNTED

    def feed(self, data: bytes) -> Iterator[str]:
        """The texts that these bytes complete, in order. What follows `[DONE]` is passed over.

        Raises:
            EngineFailed: the endpoint tells an error, or sends a chunk that cannot be read.
        """
        self._tail += data
        if len(self._tail) > 4 * TAIL:
            del self._tail[:-TAIL]
        try:
            events = self._parser.feed(data)
        except ConnectionLost as error:
            raise self._failed(str(error)) from None
        for event in events:
            if not self.done:
                yield from self._event(event)

    def body_ended(self) -> None:
        """The body has ended where its length or its last chunk says that it does."""
        self.done = True

    def finish(self) -> Literal["stop", "length"]:
        """How the answer ended.

        Raises:
            EngineFailed: it is not whole, or its reason is not one of a good end.
        """
        if not self.whole:
            lack = "without [DONE] after its text" if self.reason else "without a finish_reason"
            raise self._failed(f"the answer broke off, {lack}{self.last_words}")
        if self.reason.lower() not in REASONS:
            raise self._failed(f"the answer broke off: its finish_reason is {message(self.reason)!r}")
        return REASONS[self.reason.lower()]

    @property
    def last_words(self) -> str:
        """What came last and was no chunk, such as an error outside of any event; "" if there is nothing."""
        lines = self._tail.decode("utf-8", "replace").splitlines()
        if len(self._tail) >= TAIL:  # it may begin in the middle of a line
            lines = lines[1:]
        strange = "\n".join(filter(None, map(_strange, lines)))
        return f": {message_in(self._clean(strange))}" if strange else ""

    def _failed(self, words: str) -> EngineFailed:
        return EngineFailed(f"{self._name}: {words}")

    def _event(self, event: ServerSentEvent) -> list[str]:
        data = event.data.strip()
        if data == DONE:
            self.steps += 1
            self.done = True
        elif event.event == "error":
            raise self._failed(message_in(self._clean(data)) or "it tells an error, and not which")
        elif data.startswith("{") and event.event not in PINGS:  # else a ping, or nothing
            self.steps += 1
            return self._chunk(data)
        return []

    def _chunk(self, data: str) -> list[str]:
        try:
            chunk = CompletionChunk.parse(data)
        except ValueError as error:
            raise self._failed(f"it sent what is no chunk: {message(error)}") from error
        if chunk.error or (chunk.choices is None and chunk.is_error):
            raise self._failed(message_in(self._clean(data)))
        self.usage = chunk.usage or self.usage
        texts = []
        for choice in chunk.choices or ():
            if choice.error:
                raise self._failed(self._clean(message(choice.error)))
            if content := choice.content:
                texts.append(content)
                self._text_last = True
            if choice.finish_reason and (reason := choice.reason):
                self.reason, self._text_last = reason, bool(content)
        return texts


def _strange(line: str) -> str:
    """What a line says that is neither a chunk nor a part of the format; "" for any other line."""
    words = line.removeprefix("data:").strip()
    if line.startswith(FIELDS) or words in ("null", DONE) or (line.startswith("data:") and words[:1] == "{"):
        return ""
    return words.removeprefix("error:").strip()
