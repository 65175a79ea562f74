"""Training: one loop, exact resume, any number of processes."""
