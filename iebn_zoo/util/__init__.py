"""What every room uses and what knows of none: device, errors, files, flags, progress, processes, resources, seeds."""
