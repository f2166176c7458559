"""The results of a benchmark: rows and their summary."""
