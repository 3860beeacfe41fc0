"""Which names and addresses are this machine's own."""

import re
import socket
from ipaddress import IPv6Address, ip_address

import psutil

_SHORT = re.compile(r"[0-9a-fx.]+")
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^\[\]:]*)(:\d*)?")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine and no other can answer for it.

    It is so for all of 127.0.0.0/8, for `::1`, and for `localhost` with every name below it (RFC 6761, 6.3),
    in any case. `host` has no port; an IPv6 address may stand in brackets. No name is looked up.
    """
    name = host.removeprefix("[").removesuffix("]").lower().removesuffix(".")
    try:
        address = ip_address(name)
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def is_own(authority: str) -> bool:
    """Whether the authority of a request, `host` or `host:port`, names this machine by loopback.

    HTTP/1.1 sends it as `Host`, HTTP/2 and gRPC as `:authority`. A server on loopback must answer for no
    other name. Otherwise a foreign page whose name leads to 127.0.0.1 (DNS rebinding) could read its answers.
    """
    parts = _AUTHORITY.fullmatch(authority)
    return parts is not None and is_loopback(parts[1])


def is_this_machine(host: str) -> bool:
    """Whether this machine itself answers for a host, so that no proxy has to stand between.

    It is so for loopback, for an unspecified address (`0.0.0.0`, `::`), for the addresses of this machine's
    interfaces and for its own name. No name is looked up.
    """
    name = host.removeprefix("[").removesuffix("]").partition("%")[0].lower()
    if is_loopback(name) or name == socket.gethostname().lower():
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return _is_short_for_this_machine(name)
    return address.is_unspecified or str(address) in _interface_addresses()


def _is_short_for_this_machine(name: str) -> bool:
    """Whether this is an IPv4 address as resolvers alone read it: `127.1`, `0`, `0x7f000001`."""
    if not _SHORT.fullmatch(name):
        return False
    try:
        return is_this_machine(socket.inet_ntoa(socket.inet_aton(name)))
    except OSError:
        return False


def _interface_addresses() -> set[str]:
    entries = [entry for entries in psutil.net_if_addrs().values() for entry in entries]
    return {entry.address.partition("%")[0] for entry in entries}
