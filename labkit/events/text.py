"""The text workload: the request is a prompt, the pieces are tokens, and they fold into an `Answer`."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from pydantic import Field

from labkit.events.common import UNCOUNTED, Finished, Numbered, Piece, Reason, Request, Started, Whole

MAX_PROMPT_CHARS = 8_192
MAX_TOKENS = 65_536
SEEDS = 2**53  # JSON carries a whole number below it exactly everywhere (RFC 8259, 6)

StopString = Annotated[str, Field(min_length=1, max_length=64)]


class GenerateRequest(Request):
    """One prompt and how to answer it.

    `temperature` 0 is greedy, `top_k` 0 and `top_p` 1 are off. The same `seed` gives the same text.
    `ignore_eos` goes on to `max_tokens` even where the model would end. `reader_tps` is how fast the reader
    reads, in tokens per second; only a scheduler that looks at readers uses it.
    """

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT_CHARS)
    max_tokens: Whole = Field(default=128, ge=1, le=MAX_TOKENS)
    temperature: float = Field(default=0.8, ge=0, le=2, allow_inf_nan=False)
    top_k: Whole = Field(default=0, ge=0, le=65_536)
    top_p: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)
    seed: Whole = Field(default=0, ge=0, lt=SEEDS)
    stop: list[StopString] = Field(default_factory=list, max_length=4)
    ignore_eos: bool = False
    reader_tps: float = Field(default=10.0, gt=0, le=10_000, allow_inf_nan=False)


class Token(Piece, tag="token", frozen=True):
    """One sampled token; `text` is the text that became readable with it.

    `text` is empty while a character of several bytes or a possible stop string is unfinished, and for the
    token that ends the answer.
    """

    text: str


class Answer(msgspec.Struct):
    """A whole stream of tokens as one value, which REST returns.

    `completion_tokens` is None where a token of the stream is a chunk of several that nobody has counted.
    """

    request_id: str
    model: str
    text: str
    reason: Reason
    prompt_tokens: int
    completion_tokens: int | None
    tokens: list[Token]

    @classmethod
    def from_events(cls, events: Sequence[Numbered]) -> "Answer":
        """Fold a finished stream.

        Raises:
            ValueError: the events are not one whole stream that ended in `Finished`.
        """
        started, *pieces, finished = events
        if not isinstance(started, Started) or not isinstance(finished, Finished):
            raise ValueError("an answer needs a stream from `started` to `finished`")
        tokens = [piece for piece in pieces if isinstance(piece, Token)]
        return cls(
            request_id=started.request_id,
            model=started.model,
            text="".join(token.text for token in tokens),
            reason=finished.reason,
            prompt_tokens=started.prompt_tokens,
            completion_tokens=None if finished.tokens == UNCOUNTED else finished.tokens or finished.pieces,
            tokens=tokens,
        )

    def events(self) -> list[Started | Token | Finished]:
        """The stream that this answer was folded from, with the same ids."""
        started = Started(0, self.request_id, self.model, self.prompt_tokens)
        count, pieces = self.completion_tokens, len(self.tokens)
        tokens = UNCOUNTED if count is None else 0 if count == pieces else count
        finished = Finished(pieces + 1, self.reason, pieces, tokens)
        return [started, *self.tokens, finished]
