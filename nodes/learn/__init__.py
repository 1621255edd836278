"""Learn Face: its inputs, what it runs, and what it shows while it learns."""
