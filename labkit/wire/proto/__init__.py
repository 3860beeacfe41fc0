"""Generated protobuf messages; `python -m labkit.wire.proto.generate` makes them again."""
