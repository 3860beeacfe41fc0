"""Writes little stories from a grammar, and recognises the sentences of that same grammar.

The grammar, ``stories.txt``, is a list of rules, ``symbol: alternative | alternative``. ``{symbol}`` in an
alternative stands for any alternative of that symbol. Three conventions make it more than a list:

- a symbol in capitals (``{NAME}``, ``{THING}``) is chosen once and then stays the same for the whole story;
- ``symbol/she`` and ``symbol/he`` are the forms for the two kinds of hero, so that pronouns agree;
- a symbol named in a ``story`` rule is a sentence; everything else is a part of a sentence.

Some letters and marks take several bytes in UTF-8 (’ “ ” — … ♪ ë é ö ñ ê), and a byte-level tokenizer may cut
them in two.
"""

import random
import re
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

REQUEST_SHARE = 0.25
HEROES = ("she", "he")
SYMBOL = re.compile(r"\{(\w+)\}")
SENTENCE_END = re.compile(r"[.!?♪…]”?$")


def _rules(grammar: str) -> dict[str, tuple[str, ...]]:
    entries = re.split(r"\n+(?=\S)", grammar.strip())
    pairs = (entry.split(":", 1) for entry in entries)
    return {symbol: tuple(" ".join(text.split()) for text in body.split("|")) for symbol, body in pairs}


RULES = _rules(Path(__file__).with_name("stories.txt").read_text(encoding="utf-8"))


def _alternatives(symbol: str, hero: str) -> tuple[str, ...]:
    return RULES.get(f"{symbol}/{hero}") or RULES[symbol]


def _write(symbol: str, hero: str, cast: dict[str, str], rng: random.Random) -> str:
    if symbol in cast:
        return cast[symbol]
    text = rng.choice(_alternatives(symbol, hero))
    text = SYMBOL.sub(lambda match: _write(match[1], hero, cast, rng), text)
    if not symbol.isupper():
        return text
    if text in cast.values():  # a mouse does not meet a second mouse
        return _write(symbol, hero, cast, rng)
    cast[symbol] = text
    return text


def story(rng: random.Random) -> str:
    """Return one story of 6 to 8 sentences; a quarter of them follow a request and a line break."""
    hero = rng.choice(HEROES)
    request_cast: dict[str, str] = {}
    request = _write("request", hero, request_cast, rng) + "\n" if rng.random() < REQUEST_SHARE else ""
    while True:
        cast = request_cast.copy()
        plot = SYMBOL.findall(rng.choice(RULES["story"]))
        text = " ".join(_capital(_write(name, hero, cast, rng)) for name in plot)
        if all(value in text for value in request_cast.values()):
            return request + text


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def corpus(stories: int, seed: int) -> Iterator[str]:
    """Yield ``stories`` stories; the same seed gives the same stories."""
    rng = random.Random(seed)
    return (story(rng) for _ in range(stories))


def sentences(text: str) -> list[str]:
    """Cut a text into sentences; a mark inside quotation marks does not end one."""
    pieces: list[str] = []
    start = 0
    for gap in re.finditer(r"\s+", text):
        before, after = text[start : gap.start()], text[gap.end() :]
        closed = before.count("“") == before.count("”")
        starts = after[:1].isupper() or after[:1] == "“"
        if "\n" in gap[0] or (closed and starts and SENTENCE_END.search(before)):
            pieces.append(before)
            start = gap.end()
    return [*pieces, text[start:]] if text[start:].strip() else pieces


def _pattern(symbol: str, hero: str, captured: set[str]) -> str:
    """A regular expression for a symbol; the second {NAME} of a sentence must repeat the first."""
    if symbol in captured:
        return f"(?P={symbol})"
    options = [_pattern_of(text, hero, captured) for text in _alternatives(symbol, hero)]
    if symbol.isupper():
        captured.add(symbol)
        return f"(?P<{symbol}>{'|'.join(options)})"
    return f"(?:{'|'.join(options)})"


def _pattern_of(text: str, hero: str, captured: set[str]) -> str:
    parts = SYMBOL.split(text)
    parts[::2] = map(re.escape, parts[::2])
    parts[1::2] = [_pattern(symbol, hero, captured) for symbol in parts[1::2]]
    return "".join(parts)


@cache
def _recogniser() -> list[tuple[re.Pattern[str], str]]:
    """Every sentence as a pattern for each hero."""
    symbols = {name for plot in RULES["story"] for name in SYMBOL.findall(plot)} | {"request"}
    patterns: dict[tuple[str, str], None] = {}
    for symbol in sorted(symbols):
        for text in RULES[symbol]:
            only_symbol = SYMBOL.fullmatch(text)
            forms = RULES[only_symbol[1]] if only_symbol else (text,)
            for hero in HEROES:
                patterns |= dict.fromkeys((_pattern_of(form, hero, set()), hero) for form in forms)
    return [(re.compile(pattern), hero) for pattern, hero in patterns]


def parse(sentence: str) -> dict[str, str] | None:
    """Return what a sentence says about its cast, such as ``{"NAME": "Mia", "hero": "she"}``.

    None means that the grammar cannot write this sentence.
    """
    if not sentence or _capital(sentence) != sentence:
        return None
    forms = (sentence, sentence[0].lower() + sentence[1:])
    tries = [(pattern.fullmatch(form), hero) for pattern, hero in _recogniser() for form in forms]
    matches = {hero: match for match, hero in tries if match}
    if not matches:
        return None
    hero, match = matches.popitem()
    return match.groupdict() | ({} if matches else {"hero": hero})


def is_grammatical(sentence: str) -> bool:
    """Whether the grammar can write this sentence."""
    return parse(sentence) is not None


def keeps_its_cast(text: str, symbols: Collection[str] = ()) -> bool:
    """Whether a story's grammatical sentences agree on who and what they are about.

    ``symbols`` are the parts to look at, such as ``("NAME", "hero")``; by default all of them.
    """
    cast: dict[str, str] = {}
    facts = [fact for sentence in sentences(text) for fact in (parse(sentence) or {}).items()]
    facts = [fact for fact in facts if not symbols or fact[0] in symbols]
    return all(cast.setdefault(symbol, value) == value for symbol, value in facts)
