"""What every room uses and what knows of none: errors, files, flags of a parser, progress, processes, resources."""
