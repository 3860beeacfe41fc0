"""What counts as this machine's own name, and what only looks like it."""

import pytest

from labkit.net.loopback import is_loopback, is_own

OWN = [
    "127.0.0.1",
    "127.0.0.2",
    "127.255.255.254",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "lab.localhost",
    "[::1]",
]
FOREIGN = [
    "",
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "evillocalhost",
    "localhost@evil.example",
    "128.0.0.1",
    "0.0.0.0",
    "[::2]",
    "[::ffff:10.0.0.1]",
    "127.1",
]


@pytest.mark.parametrize("name", OWN)
def test_own_names_with_and_without_a_port(name: str) -> None:
    assert is_loopback(name) and is_own(name) and is_own(f"{name}:8000")


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_names_with_and_without_a_port(name: str) -> None:
    assert not is_loopback(name) and not is_own(name) and not is_own(f"{name}:8000")


def test_an_address_of_version_6_may_stand_without_brackets() -> None:
    assert is_loopback("::1") and is_loopback("::ffff:127.0.0.2")
    assert not is_loopback("::2")


@pytest.mark.parametrize(
    "authority", ["localhost:port", "localhost:80:80", "[::1", "::1:80", "localhost:80@evil.example"]
)
def test_what_is_no_authority_is_not_own(authority: str) -> None:
    assert not is_own(authority)
