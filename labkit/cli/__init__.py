"""The command line: one file a command, which `app` puts together."""
