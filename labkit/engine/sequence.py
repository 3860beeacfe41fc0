"""One request as the scheduler sees it: its tokens, how many are computed, and how fast they are read."""

from dataclasses import dataclass, field

from labkit.engine.trace import State


@dataclass(eq=False)
class Sequence:
    """A request between its arrival and its end. The engine extends it with what it needs to answer.

    `tokens` are the prompt, followed by the tokens generated so far. The keys and values of the first
    `computed` of them are in `slot`, or in a store outside if `swapped`. The others are `pending`: once they
    are computed, the next token is chosen. This one rule covers a prompt, a chunk of a prompt, a decode, and
    a text that is computed again after an eviction.

    `ready` is False while its pace or its reader holds it up; `stalled` is True if it is the reader.

    Args:
        arrival_s: seconds, on the clock of the core that runs it.
        max_tokens: the most tokens to generate.
        reader_tps: how fast its reader reads, in tokens per second.
    """

    name: str
    tokens: list[int]
    max_tokens: int
    arrival_s: float
    reader_tps: float = 10.0
    prompt_tokens: int = field(init=False)
    computed: int = field(default=0, init=False)
    slot: int | None = field(default=None, init=False)
    swapped: bool = field(default=False, init=False)
    ready: bool = field(default=True, init=False)
    stalled: bool = field(default=False, init=False)
    finished: bool = field(default=False, init=False)
    preemptions: int = field(default=0, init=False)
    first_s: float | None = field(default=None, init=False)
    read_until_s: float = field(default=0.0, init=False)
    number: int = field(default=-1, init=False)
    state: State = field(default="waiting", init=False)

    def __post_init__(self) -> None:
        self.prompt_tokens = len(self.tokens)

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    @property
    def pending(self) -> int:
        """How many tokens to compute before the next token can be chosen."""
        return len(self.tokens) - self.computed

    @property
    def decoding(self) -> bool:
        """Whether it computes one token to get the next: the prompt is read."""
        return self.pending == 1 and self.generated > 0

    @property
    def longest(self) -> int:
        """The most tokens whose keys and values it can hold: all but the last."""
        return self.prompt_tokens + self.max_tokens - 1

    def lead_s(self, now_s: float) -> float:
        """How many seconds its reader can go on without a new token: unread tokens over reading speed."""
        return max(0.0, self.read_until_s - now_s)

    def begin(self) -> None:
        """Called when it computes for the first time."""

    def end(self, code: str, message: str) -> None:
        """Called when it is dropped before its last token, with the reason."""

    def push(self, token: int, now_s: float) -> None:
        """Add the token that was chosen, and set `finished` if it is the last."""
        self.tokens.append(token)
        if self.first_s is None:
            self.first_s = now_s
        self.read_until_s = max(self.read_until_s, now_s) + 1 / self.reader_tps
        self.finished = self.finished or self.generated >= self.max_tokens
