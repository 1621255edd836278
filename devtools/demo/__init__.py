"""The demo of run.py."""
