"""Scheduling policies by name, one file each."""

from importlib import import_module

from labkit.engine.scheduler import Policy
from labkit.errors import InvalidRequest

POLICIES = {
    "static": "Static",
    "fcfs": "Fcfs",
    "prefill_first": "PrefillFirst",
    "sarathi": "Sarathi",
    "andes": "Andes",
    "tokenflow": "TokenFlow",
}


def create_policy(name: str) -> Policy:
    """Make a policy.

    Raises:
        InvalidRequest: there is no policy of that name.
    """
    if name not in POLICIES:
        raise InvalidRequest(f"policy: {', '.join(POLICIES)}, not {name!r}")
    policy: Policy = getattr(import_module(f"labkit.engine.policies.{name}"), POLICIES[name])()
    return policy
