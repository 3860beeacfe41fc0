"""One file per interface; each offers one subclass of `labkit.client.Client` and knows no other."""
