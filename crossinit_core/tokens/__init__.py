"""What was learned: the value, its files, its metadata, mixtures of it, and reports on it."""
