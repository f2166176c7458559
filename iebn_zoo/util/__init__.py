"""What all other packages use: device, errors, files, CSV, parser and flags, progress, processes, resources, seeds."""
