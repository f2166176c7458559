"""The commands that make, push and verify Hub repositories."""
