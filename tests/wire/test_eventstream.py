"""The event-stream format as the HTML standard's own tests have it, however the bytes are cut."""

import time
from itertools import pairwise

import httpx
import pytest
from httpx_sse import EventSource
from hypothesis import example, given
from hypothesis import strategies as st

from labkit.errors import ConnectionLost
from labkit.wire import MAX_MESSAGE
from labkit.wire.eventstream import Parser, ServerSentEvent, encode

Told = list[tuple[str, str, str]]


def parse(*chunks: bytes) -> Told:
    parser = Parser()
    return [(e.event, e.data, e.last_id) for chunk in chunks for e in parser.feed(chunk)]


def messages(*data: str) -> Told:
    return [("message", text, "") for text in data]


# Named after the files of web-platform-tests/eventsource that they follow.
CASES: dict[str, tuple[bytes, Told]] = {
    "bom": (b"\xef\xbb\xbfdata:1\n\n\xef\xbb\xbfdata:2\n\ndata:3\n\n", messages("1", "3")),
    "bom twice": (b"\xef\xbb\xbf\xef\xbb\xbfdata:1\n\ndata:2\n\ndata:3\n\n", messages("2", "3")),
    "comments": (
        b"data:1\r:\0\n:\r\ndata:2\n:%b\rdata:3\n:data:fail\r:%b\ndata:4\n\n" % (b"x" * 2048, b"x" * 2048),
        messages("1\n2\n3\n4"),
    ),
    "data before final empty line": (b"retry:1000\ndata:test1\n\nid:test\ndata:test2", messages("test1")),
    "field data": (b"data:\n\ndata\ndata\n\ndata:test\n\n", messages("", "\n", "test")),
    "field event": (
        b"event:test\ndata:x\n\ndata:x\n\n",
        [("test", "x", ""), ("message", "x", "")],
    ),
    "field event empty": (b"event: \ndata:data\n\n", messages("data")),
    "field event without data is forgotten": (b"event:test\n\ndata:x\n\n", messages("x")),
    "field id": (b"id:1\ndata:a\n\ndata:b\n\n", [("message", "a", "1"), ("message", "b", "1")]),
    "field id empty resets": (
        b"id:1\ndata:a\n\nid\ndata:b\n\n",
        [("message", "a", "1"), ("message", "b", "")],
    ),
    "field id 3: an id-only block sets it": (b"id:7\n\ndata:a\n\n", [("message", "a", "7")]),
    "field id null": (
        b"id:1\ndata:a\n\nid:2\0x\ndata:b\n\nid:\0\ndata:c\n\n",
        [("message", "a", "1"), ("message", "b", "1"), ("message", "c", "1")],
    ),
    "field id of an unfinished event": (b"id:1\ndata:a\n\nid:2\ndata:b\n", [("message", "a", "1")]),
    "field parsing": (
        b"data:\0\ndata:  2\rData:1\ndata\0:2\ndata:1\r\0data:4\nda-ta:3\rdata_5\ndata:3\r"
        b"data:\r\n data:32\ndata:4\n\n",
        messages("\0\n 2\n1\n3\n\n4"),
    ),
    "field unknown": (
        b"data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\n\n",
        messages("test\n"),
    ),
    "leading space": (b"data:\ttest\rdata: \ndata:test\n\n", messages("\ttest\n\ntest")),
    "one space alone is dropped": (b"data:  x\n\n", messages(" x")),
    "newlines": (b"data:test\r\ndata\ndata:test\r\n\r\n", messages("test\n\ntest")),
    "null character": (b"data:\0\n\n\n\n", messages("\0")),
    "utf-8": ("data:ok…日本🦊\n\n".encode(), messages("ok…日本🦊")),
    "broken utf-8": (b"data:a\xff\xc3\n\ndata:b\n\n", messages("a��", "b")),
    "no other line ends": (
        "data:a\x0b\x0c\x1c\x85\u2028\u2029b\n\n".encode(),
        messages("a\x0b\x0c\x1c\x85\u2028\u2029b"),
    ),
    "carriage returns alone": (b"data:a\r\rdata:b\r\r", messages("a", "b")),
    "mixed line ends": (b"data:a\n\r\ndata:b\r\n\rdata:c\r\n\n", messages("a", "b", "c")),
    "colon in the value": (b"data:a:b: c\n\n", messages("a:b: c")),
    "nothing": (b"", []),
    "blank lines alone": (b"\n\r\r\n\n", []),
}  # fmt: skip


@pytest.mark.parametrize(("stream", "expected"), CASES.values(), ids=CASES.keys())
def test_case_of_the_standard(stream: bytes, expected: Told) -> None:
    assert parse(stream) == expected
    assert parse(*(bytes([byte]) for byte in stream)) == expected, "byte by byte"
    for cut in range(len(stream)):
        assert parse(stream[:cut], b"", stream[cut:]) == expected, f"cut at {cut}"


@pytest.mark.parametrize(
    ("line", "retry"),
    [
        (b"retry:1000", 1000),
        (b"retry: 3", 3),
        (b"retry:007", 7),
        (b"retry:1000x", None),
        (b"retry:x1", None),
        (b"retry:", None),
        (b"retry", None),
        (b"retry:-1", None),
        (b"retry:1.5", None),
        (b"retry: 1 ", None),
        ("retry:\u0663".encode(), None),
        ("retry:²".encode(), None),
    ],
)
def test_retry_is_digits_alone(line: bytes, retry: int | None) -> None:
    parser = Parser()
    assert parser.feed(line + b"\ndata:x\n\n") == [ServerSentEvent("x")]
    assert parser.retry == retry


def test_absurd_retry_does_not_break_the_stream() -> None:
    assert parse(b"retry:" + b"9" * 5_000 + b"\ndata:x\n\n") == messages("x")


def test_id_with_nul_keeps_the_last_one_for_reconnection() -> None:
    parser = Parser()
    parser.feed(b"id:1\n\nid:2\0\n\n")
    assert parser.last_id == "1"
    parser.feed(b"id:3\n")
    assert parser.last_id == "1", "not before its block ends"
    parser.feed(b"\n")
    assert parser.last_id == "3"


def test_carriage_return_dispatches_without_waiting_for_what_follows() -> None:
    parser = Parser()
    assert parser.feed(b"data:a\r\r") == [ServerSentEvent("a")]
    assert parser.feed(b"\ndata:b\r") == []
    assert parser.feed(b"\n") == []
    assert parser.feed(b"\r") == [ServerSentEvent("b")]


FIELDS = [b"data:x", b"data: y", b"data", b"event:e", b"id:1", b"id", b"id:\0", b"retry:5", b":c", b"zz"]
MARKS = [b"\n", b"\r", b"\r\n", b"\n\n", b"\xef\xbb\xbf", "é🦊".encode(), b"\xff", b" ", b":", b"\0"]
PIECES = st.sampled_from(FIELDS + MARKS)
STREAMS = st.lists(PIECES, max_size=40).map(b"".join)


@given(STREAMS, st.lists(st.integers(0, 400), max_size=20))
@example(b"\xef\xbb\xbfdata:x\r\n\r\n", [1, 2, 11, 12, 13])
def test_any_cut_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[start:end] for start, end in pairwise(bounds)]
    assert parse(*chunks) == parse(stream)


def httpx_sse(stream: bytes) -> Told:
    response = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=stream)
    return [(e.event, e.data, e.id) for e in EventSource(response).iter_sse()]


# Where httpx-sse departs from the standard: it keeps the BOM, dispatches a block without data if it has an
# event, an id or a retry, and an unfinished block at the end.
CONFORMING = st.lists(
    st.tuples(
        st.sampled_from([b"", b"event:e\n", b"event: other\r\n"]),
        st.sampled_from([b"", b"id:1\n", b"id: 22\r\n", b"id:\0\n"]),
        st.sampled_from([b"", b":comment\n", b"zz:1\n", b"retry:5\n"]),
        st.lists(
            st.sampled_from([b"data:a\n", b"data:  b\r\n", b"data:c:d\n", "data:é🦊\n".encode()]), min_size=1
        ),
        st.sampled_from([b"\n", b"\r\n"]),
    ),
    max_size=8,
).map(lambda blocks: b"".join(a + b + c + b"".join(d) + e for a, b, c, d, e in blocks))


@given(CONFORMING)
def test_agrees_with_httpx_sse(stream: bytes) -> None:
    assert parse(stream) == httpx_sse(stream)


lines = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=30)


@given(st.lists(st.tuples(lines, st.sampled_from(["token", "failed"]), st.integers(0, 2**63)), max_size=8))
def test_what_is_written_is_read(written: list[tuple[str, str, int]]) -> None:
    stream = b"".join(encode(data.encode(), event.encode(), id) for data, event, id in written)
    assert parse(stream) == [(event, data, str(id)) for data, event, id in written]
    assert httpx_sse(stream) == parse(stream)


@pytest.mark.parametrize("lines", [1, 1000])
def test_work_is_linear_in_the_bytes_however_small_the_reads(lines: int) -> None:
    def seconds(size: int) -> float:
        stream = (b"data:" + b"x" * (size // lines) + b"\n") * lines + b"\n"
        parser, start = Parser(), time.process_time()
        events = [event for cut in range(0, len(stream), 64) for event in parser.feed(stream[cut : cut + 64])]
        assert [len(event.data) for event in events] == [size // lines * lines + lines - 1]
        return time.process_time() - start

    small, large = (min(seconds(size) for _ in range(3)) for size in (100_000, 1_600_000))
    assert large < 64 * small, "sixteen times the bytes; with quadratic work 256 times the seconds"


TOO_LARGE = {
    "one line": (b"data:", b"x" * 65_536),
    "many lines": (b"", b"data:x\n" * 8192),
    "no field": (b"", b"\0" * 65_536),
    "a comment": (b":", b" " * 65_536),
}


@pytest.mark.parametrize(("start", "again"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_event_over_the_limit_is_told(start: bytes, again: bytes) -> None:
    reads = MAX_MESSAGE // len(again) - 1
    parser = Parser()
    assert parse_all(parser, [start, *[again] * reads]) == []
    with pytest.raises(ConnectionLost, match=f"an event of the stream is over {MAX_MESSAGE} bytes"):
        parse_all(parser, [again] * reads)


def parse_all(parser: Parser, chunks: list[bytes]) -> list[ServerSentEvent]:
    return [event for chunk in chunks for event in parser.feed(chunk)]


def test_the_limit_is_each_event_s_and_the_same_for_any_cut() -> None:
    fits = b"data:" + b"x" * (MAX_MESSAGE - 5)
    for cut in (1, 1000, len(fits)):
        parser = Parser()
        for _ in range(3):
            events = parse_all(parser, [fits[:cut], fits[cut:] + b"\n\n"])
            assert [len(event.data) for event in events] == [MAX_MESSAGE - 5]
        with pytest.raises(ConnectionLost):
            parse_all(parser, [fits[:cut], fits[cut:] + b"x\n\n"])
