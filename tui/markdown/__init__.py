"""Markdown as lines of a terminal, drawn piece by piece while it arrives."""
