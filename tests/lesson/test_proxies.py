"""A chapter's servers are asked without the proxy of the environment; other hosts are not."""

import httpx
import pytest

import labkit
from labkit.lesson.proxies import LOOPBACK, pass_loopback_by


def test_a_chapters_own_client_reaches_a_server_where_a_proxy_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with labkit.serve("rest", "scripted:tokens=3,interval_ms=0") as server:
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health")
        pass_loopback_by()
        assert httpx.get(f"{server.url}/health").status_code == 200


def test_the_hosts_that_were_passed_by_before_still_are() -> None:
    environment = {"NO_PROXY": "intranet.example"}
    pass_loopback_by(environment)
    pass_loopback_by(environment)
    assert environment == {"NO_PROXY": f"intranet.example,{LOOPBACK}", "no_proxy": LOOPBACK}
