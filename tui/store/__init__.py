"""What was said, on disk: one SQLite file that several koala-tui may use at once."""
