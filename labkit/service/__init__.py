"""What stands between an engine and any server."""
