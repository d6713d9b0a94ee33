"""Whether the compiled modules are there; imported before all others, so that its message is the one that is read.

In a clone of the repository the folder `rnnfast` holds the sources alone, and Python, started there, finds it before
the installed package.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

if find_spec("._core", __package__) is None:
    raise ImportError(
        f"rnnfast: the folder {Path(__file__).parent} has no compiled modules for this Python: it is the source code, "
        "and hides the installed package from a Python that is started beside it. Start Python in another folder, or "
        "with the option -P (PYTHONSAFEPATH=1); or install the sources in place: pip install -e .",
        name="rnnfast._core",
    )
