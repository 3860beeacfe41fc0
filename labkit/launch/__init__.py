"""One call starts a server, in a thread or in a subprocess; one handle stops it."""
