"""Studies of what IEBN does and costs: noise attacks, grids of runs, time and memory."""
