"""A notebook's kernel answers every request: its replies go through the stream that reads its requests."""

from collections.abc import Iterator

import pytest
from jupyter_client.manager import KernelManager, start_new_kernel
from support import PATIENCE_S

# So many connections that a kernel without the mend stops reading on one of them, more often than not.
CONNECTIONS = 2_000
PATIENCE_MS = int(1000 * PATIENCE_S)


@pytest.fixture
def kernel() -> Iterator[KernelManager]:
    manager, client = start_new_kernel(startup_timeout=PATIENCE_S)
    client.stop_channels()
    yield manager
    manager.shutdown_kernel(now=True)


def test_a_request_beside_a_reply_to_somebody_who_left_is_answered(kernel: KernelManager) -> None:
    # Jupyter's server does this for every page: it asks on two channels and leaves after the first answer.
    session = kernel.session
    for _ in range(CONNECTIONS):
        leaver, control, page = kernel.connect_shell(), kernel.connect_control(), kernel.connect_shell()
        session.send(leaver, "kernel_info_request")
        session.send(control, "kernel_info_request")
        control.poll(PATIENCE_MS)
        session.send(page, "kernel_info_request")
        leaver.close(0)
        answered = page.poll(PATIENCE_MS)
        for channel in (control, page):
            channel.close(0)
        assert answered
