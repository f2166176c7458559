"""A grid of runs, {models} x {seeds}: arguments -> grid (the cells) -> jobs (the processes) -> results -> picture."""
