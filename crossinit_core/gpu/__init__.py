"""What makes a step fast on a GPU, and torch's modes around a run."""
