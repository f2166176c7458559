"""What every command has: its parser and flags, and how its output and its errors reach a user."""
