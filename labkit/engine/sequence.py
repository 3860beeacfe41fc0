"""One request as the scheduler sees it: its tokens, how far they are computed, where, and who reads them."""

from dataclasses import dataclass, field

from labkit.engine.trace import State


@dataclass(eq=False)
class Sequence:
    """A request between its arrival and its end; the engine and the simulator each add what they know more.

    `tokens` are the prompt and then what was generated; the keys and values of the first `computed` are in
    `slot`, or, where `swapped`, in a store outside. So one rule covers a prompt, a piece of a prompt, one
    token and what has to be computed again after an eviction: `pending` tokens, and after the last a new one.

    It is `ready` unless its pace or its reader holds it up, and `stalled` where it is the reader.

    Args:
        arrival_s: seconds, on the clock of the core that runs it.
        max_tokens: the most tokens that are to be generated.
        reader_tps: how fast its reader reads, tokens per second.
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
        """Tokens whose keys and values are still to be computed before the next one can be chosen."""
        return len(self.tokens) - self.computed

    @property
    def decoding(self) -> bool:
        """Whether one token is all that it needs to get the next."""
        return self.pending == 1 and self.generated > 0

    @property
    def longest(self) -> int:
        """The most tokens whose keys and values it can come to hold: all but the last."""
        return self.prompt_tokens + self.max_tokens - 1

    def lead_s(self, now_s: float) -> float:
        """How long its reader can go on without a new token: buffered tokens over reading speed."""
        return max(0.0, self.read_until_s - now_s)

    def begin(self) -> None:
        """It computes for the first time."""

    def end(self, code: str, message: str) -> None:
        """It is dropped before its last token, for this reason."""

    def push(self, token: int, now_s: float) -> None:
        """One more token was chosen; sets `finished` with the last."""
        self.tokens.append(token)
        if self.first_s is None:
            self.first_s = now_s
        self.read_until_s = max(self.read_until_s, now_s) + 1 / self.reader_tps
        self.finished = self.finished or self.generated >= self.max_tokens
