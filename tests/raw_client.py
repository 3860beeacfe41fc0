"""Requests and frames as bytes, and sockets that a test drives by hand."""

import socket

import psutil

from labkit.launch.threaded import ThreadServer

GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = b" HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
UPGRADE = (
    b"GET /ws/me HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
MASK = bytes(4)  # a client's frames are masked; this mask leaves them as they are


def post(question: bytes) -> bytes:
    return (
        b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(question), question)
    )


def text_frame(text: bytes) -> bytes:
    """A client's frame around a text below 126 bytes."""
    return bytes([0x81, 0x80 | len(text)]) + MASK + text


def dial(server: ThreadServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port))


def dial_websocket(server: ThreadServer) -> socket.socket:
    """A socket on which the handshake is done."""
    client = dial(server)
    client.sendall(UPGRADE)
    assert b" 101 " in client.recv(4096)
    return client


def connections(server: ThreadServer) -> int:
    """How many sockets this process has for clients of the server."""
    own = psutil.Process().net_connections("tcp")
    return sum(each.laddr.port == server.port and each.status != psutil.CONN_LISTEN for each in own)
