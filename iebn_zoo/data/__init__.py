"""Images for training and evaluation: listing -> source -> images -> transforms -> loader."""
