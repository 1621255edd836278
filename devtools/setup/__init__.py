"""The environment that run.py makes. Standard library only."""
