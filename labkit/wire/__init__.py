"""What travels: labkit's own JSON and protobuf forms, and the SSE format."""

MAX_MESSAGE = 4 * 2**20
"""The most bytes that a client takes for one message: an SSE event, a WebSocket frame, a gRPC reply."""
