"""Static pictures of what the live widgets show, for a page without a kernel."""
