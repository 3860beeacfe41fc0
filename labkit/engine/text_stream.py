"""The stream of a text: a `Stream` to which an engine adds tokens."""

import time

from labkit.events import Stamps, Token
from labkit.stream import Stream


class TokenStream(Stream):
    """A stream whose pieces are tokens; otherwise as `Stream`."""

    def token(self, text: str, sampled_ns: int = 0) -> None:
        """Add one token; `sampled_ns` is when the engine chose it (`time.monotonic_ns`)."""
        if self.stamped:
            self.put(Token(self.next_id, text, stamps=Stamps(sampled_ns, time.monotonic_ns())))
        else:
            self.put(Token(self.next_id, text))
