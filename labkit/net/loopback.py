"""Which names and addresses are this machine's own."""

import re
from ipaddress import IPv6Address, ip_address

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
