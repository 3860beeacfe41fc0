"""What the kernel knows of a TCP connection: what waits in it, what its peer has taken, whether it is there.

On Linux `TCP_INFO` tells how many bytes the peer's kernel has acknowledged. That is not what its program has
read: a receive buffer of 128 KiB takes all of a short answer. Once it is full, the peer's kernel opens its
window only by a sixteenth of the buffer, or by a segment, which is 64 KiB on loopback. While a program there
reads 1 kB/s, nothing is acknowledged for 35 s at a time. Where the peer is a socket of this machine,
`sock_diag` (netlink) tells how much its program has read.
"""

import socket
import struct
import sys
from contextlib import suppress
from ipaddress import ip_address
from typing import NamedTuple

if sys.platform == "linux":
    from fcntl import ioctl
    from termios import TIOCOUTQ

STATE, RETRANSMITS, PROBES = 0, 2, 3  # where the fields of tcp_info (linux/tcp.h) begin
LAST_ACK_RECV = 8 + 12 * 4
BYTES_ACKED = 8 + 24 * 4 + 2 * 8
BYTES_RECEIVED = BYTES_ACKED + 8
INFO_BYTES = 192
SOCK_DIAG = 4  # NETLINK_SOCK_DIAG
BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
INET_DIAG_INFO = 2
UNREAD = 16 + 4 + 48 + 4  # idiag_rqueue in an answer: after nlmsghdr, four bytes, a sockid and a number
ATTRIBUTES = 16 + 72
ESTABLISHED, LISTENING = 1, 10


class Sight(NamedTuple):
    """One look at a connection."""

    acknowledged: int = 0  # bytes, since the peer connected
    unheard_s: float = 0.0  # how long the peer's kernel has owed ours an answer; 0 if it owes none
    closed: bool = False  # whether the peer has closed its end


class Observer:
    """Asks the kernel about connections. Elsewhere than on Linux it sees nothing."""

    def __init__(self) -> None:
        self._diag: socket.socket | None = None
        if sys.platform == "linux":
            with suppress(OSError):  # a sandbox may forbid it; then what is acknowledged counts as taken
                self._diag = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, SOCK_DIAG)
                self._diag.setblocking(False)

    def waiting(self, sock: socket.socket) -> int:
        """How many bytes the peer's kernel has not acknowledged yet; 0 where the kernel does not say."""
        if sys.platform != "linux":
            return 0
        return int(struct.unpack("i", ioctl(sock.fileno(), TIOCOUTQ, bytes(4)))[0])

    def look(self, sock: socket.socket) -> Sight | None:
        """What is seen of the connection without asking about its peer; None where the kernel does not say.

        Raises:
            OSError: the connection has ended.
        """
        if sys.platform != "linux":
            return None
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, INFO_BYTES)
        owed = info[RETRANSMITS] + info[PROBES] > 1  # one may have got lost, or have just been sent
        unheard_ms = _number("=I", info, LAST_ACK_RECV) if owed else 0
        return Sight(_number("=Q", info, BYTES_ACKED), unheard_ms / 1000, info[STATE] != ESTABLISHED)

    def read_by_peer(self, sock: socket.socket) -> int | None:
        """How many bytes the peer's program has read; None if its socket is none of this machine's.

        Raises:
            OSError: the connection has ended.
        """
        if self._diag is None:
            return None
        (peer, peer_port), (own, own_port) = sock.getpeername()[:2], sock.getsockname()[:2]
        with_info = 1 << (INET_DIAG_INFO - 1)
        question = struct.pack("=BBBBI", sock.family, socket.IPPROTO_TCP, with_info, 0, 0xFFFFFFFF)
        question += struct.pack("!HH16s16s", peer_port, own_port, _packed(peer), _packed(own))
        question += struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)  # on any interface, with any cookie
        header = struct.pack("=IHHII", 16 + len(question), BY_FAMILY, 1, 0, 0)  # NLM_F_REQUEST
        try:
            self._diag.send(header + question)
            answer = self._diag.recv(4096)
        except OSError:
            return None
        if _number("=H", answer, 4) != BY_FAMILY or answer[17] == LISTENING:
            return None
        info = _attribute(answer[ATTRIBUTES:], INET_DIAG_INFO)
        return None if info is None else _number("=Q", info, BYTES_RECEIVED) - _number("=I", answer, UNREAD)

    def close(self) -> None:
        if self._diag is not None:
            self._diag.close()


def _number(form: str, data: bytes, offset: int) -> int:
    return int(struct.unpack_from(form, data, offset)[0])


def _packed(address: str) -> bytes:
    return ip_address(address.partition("%")[0]).packed


def _attribute(data: bytes, kind: int) -> bytes | None:
    """The payload of a netlink attribute."""
    while len(data) >= 4:
        length = max(4, _number("=H", data, 0))
        if _number("=H", data, 2) == kind:
            return data[4:length]
        data = data[(length + 3) & ~3 :]
    return None
