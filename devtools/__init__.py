"""Helpers for the demo and the tests: stand-in models, and what else runs the pack without downloads."""
