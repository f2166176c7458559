"""Additions to training, each created by its own flags; ``base`` says what one may do and when."""
