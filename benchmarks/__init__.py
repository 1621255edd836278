"""Programs that measure. They assert nothing, and whatever learns a face does so through `crossinit_core.invert`.

Each file or folder here is a command of `python3 run.py bench`, except `speed/`, which holds what several of them share.
"""
