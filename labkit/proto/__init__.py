"""Generated protobuf messages; `python -m labkit.proto.generate` makes them again."""
