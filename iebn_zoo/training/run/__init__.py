"""What a run directory holds: checkpoints and their rotation, records for people, the lock; resume and repair."""
