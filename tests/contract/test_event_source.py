"""A browser's EventSource, which asks again for ever unless the server says that all has been told."""

import httpx
import pytest
from chromium import chromium_page, needs_chromium
from support import Watched, thread_server

from labkit.launch.threaded import ThreadServer
from labkit.wire.eventstream import Parser
from servers import sse

QUERY = {"prompt": "one two", "max_tokens": "3"}


def get(server: ThreadServer, last_event_id: str | None = None, **fields: str) -> httpx.Response:
    headers = {} if last_event_id is None else {"last-event-id": last_event_id}
    with httpx.Client(base_url=server.url, trust_env=False, verify=False) as client:
        return client.get("/generate", params={**QUERY, **fields}, headers=headers)


def test_who_has_heard_the_end_is_told_not_to_ask_again() -> None:
    engine = Watched(interval_ms=0)
    with thread_server("sse", engine) as server:
        last = Parser().feed(get(server).content)[-1]
        assert (last.event, last.last_id) == ("finished", "4")
        answer = get(server, last.last_id)
        assert (answer.status_code, answer.content, len(engine.streams)) == (204, b"", 1)
        for other in ("3", "5", "", "44", "x"):
            assert get(server, other).status_code == 200, "a stream that broke off is told again"
        assert get(server, "4", prompt="one three").status_code == 200, "another question"
        assert get(server, "4", max_tokens="4").status_code == 200, "another question"
        assert get(server, None).status_code == 200, "a new reader"


def test_a_failure_may_be_asked_again() -> None:
    with thread_server("sse", Watched(interval_ms=0, fail_after=2)) as server:
        last = Parser().feed(get(server).content)[-1]
        assert last.event == "failed"
        assert get(server, last.last_id).status_code == 200


def test_the_server_remembers_a_bounded_number_of_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "REMEMBERED", 2)
    with thread_server("sse", Watched(interval_ms=0)) as server:
        for prompt in ("a", "b", "c"):
            get(server, prompt=prompt)
        assert [get(server, "4", prompt=prompt).status_code for prompt in ("c", "b")] == [204, 204]
        assert get(server, "4", prompt="a").status_code == 200


# Runs in a page of the server's own: listens until the browser gives up, and tells what came.
LISTEN = """(query) => new Promise((resolve) => {
  const heard = [];
  const source = new EventSource("/generate?" + query);
  for (const kind of ["started", "token", "finished"])
    source.addEventListener(kind, (event) => heard.push([kind, event.lastEventId]));
  source.onerror = () => { if (source.readyState === EventSource.CLOSED) resolve(heard); };
})"""


@needs_chromium
def test_a_browser_s_event_source_hears_the_answer_once_and_gives_up() -> None:
    engine = Watched(interval_ms=0)
    with thread_server("sse", engine) as server, chromium_page(400, 300) as page:
        page.goto(f"{server.url}/health")
        heard = page.evaluate(LISTEN, "prompt=x&max_tokens=2")
    assert heard == [["started", "0"], ["token", "1"], ["token", "2"], ["finished", "3"]]
    assert len(engine.streams) == 1
