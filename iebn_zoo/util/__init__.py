"""What every room uses: errors, files, CSV, parser and flags, progress, processes, resources."""
