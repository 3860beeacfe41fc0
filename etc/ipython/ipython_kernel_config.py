"""What every kernel of this environment runs first: a mend for ipykernel 7.3.0.

The kernel writes its replies past the stream that reads its requests from the same socket. A request that
arrives during such a write is not read until another connection opens (ipykernel, pull request 1529): one
notebook in forty showed a kernel that never became ready, or cells that stayed at [*]. Here the replies go
through the stream, as in later versions.
"""

c = get_config()  # type: ignore[name-defined]  # noqa: F821

c.IPKernelApp.exec_lines = [
    "(lambda kernel: setattr(kernel.shell_channel_thread.manager, '_shell_socket', kernel.shell_stream))"
    "(get_ipython().kernel)"
]
