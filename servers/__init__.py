"""One file per interface; each offers `create(service) -> Listener` and knows no other."""
