"""What travels: labkit's own JSON and protobuf forms, and the SSE format."""
