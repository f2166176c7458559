"""What computes: session -> epoch -> update, evaluation, and the state of a run as a checkpoint holds it (snapshot)."""
