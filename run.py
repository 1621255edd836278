#!/usr/bin/env python3
"""Set-up and entry of this repository: demo, tests, server and benchmarks.

    python3 run.py demo      learn a face through a live ComfyUI and look at the result
    python3 run.py test      every test; with --quick those that take little time
    python3 run.py serve     open ComfyUI with this pack in it
    python3 run.py bench     list the benchmarks
    python3 run.py setup     only prepare, so that the others later need no network

Needs Python 3.11 or newer and nothing else; the nodes themselves run on 3.10 as well. The first run
makes .venv/ and .host/ beside this file (about 15 GB with downloads). Each command explains itself:
python3 run.py demo --help
"""

import os
import sys

# This file must run on every Python, old ones included, to say what is wrong with them.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(
        "run.py needs Python 3.11 or newer, but this is Python %d.%d (%s).\n"  # noqa: UP031
        "The nodes themselves run in any ComfyUI with Python 3.10 or newer. "
        "Start run.py with a newer one, for instance: python3.12 run.py\n"
        "Python can be had from https://www.python.org/downloads/."
        % (sys.version_info[0], sys.version_info[1], sys.executable)
    )

if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    sys.path.insert(0, here)  # the Python of portable Windows builds does not do that itself
    from devtools.commands import main

    sys.exit(main(sys.argv[1:], here, __doc__))
