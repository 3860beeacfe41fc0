"""A chapter's own HTTP and gRPC clients reach its servers where the environment names a proxy."""

import os
from collections.abc import MutableMapping

LOOPBACK = "127.0.0.1,localhost,::1,0.0.0.0,127.0.0.0/8"
"""All of it where a program reads ranges, as gRPC, curl and requests do; httpx reads addresses alone."""


def pass_loopback_by(environment: MutableMapping[str, str] = os.environ) -> None:
    """Add this machine to the hosts that httpx, gRPC, curl and others ask without the proxy.

    Some read `NO_PROXY`, some `no_proxy`. What the two held before stays.
    """
    for name in ("NO_PROXY", "no_proxy"):
        hosts = environment.get(name, "")
        if LOOPBACK not in hosts:
            environment[name] = f"{hosts},{LOOPBACK}" if hosts else LOOPBACK
