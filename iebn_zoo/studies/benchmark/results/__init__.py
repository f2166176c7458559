"""What was measured: rows, their summary, their picture."""
