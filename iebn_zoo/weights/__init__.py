"""One way to open weights: read a file, open a network, check that they fit."""
