"""Crashes, full disks, damaged and hostile files: how often each was tried, and how often something went wrong."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
