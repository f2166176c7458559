"""BN weights as an IEBN network, or folded gates, as a directory that is a Hub repository."""
