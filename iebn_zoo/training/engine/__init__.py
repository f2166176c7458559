"""What computes: plan -> build -> run -> epoch -> update, evaluation, and the state of a run for a checkpoint."""
