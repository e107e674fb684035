"""One file a schema step."""
