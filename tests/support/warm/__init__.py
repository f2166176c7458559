"""A stand-in for ``sys.executable`` whose processes start with torch imported already: ``python.py`` says how."""
