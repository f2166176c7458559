"""What all other packages use: device, errors, files, CSV, progress, processes, places, resources, results, seeds."""
