"""Every figure that labkit names, derived from recorded times."""
