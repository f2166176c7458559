"""Pictures of runs: curves.py (one run), overlay.py (several over each other), bands.py (seeds as mean and spread)."""
