"""What every room uses: device, errors, files, CSV, parser and flags, progress, processes, resources, seeds."""
