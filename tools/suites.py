"""Run other people's test suites on rnnfast, and count what passes and what can't.

    python tools/suites.py            # all suites
    python tools/suites.py onnx-nodes # some
    python tools/suites.py --write    # and put the table into docs/interop.md

The suites are in tests/suites.py. A suite whose packages are not installed is left out, and said to be.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import SkipTest

ROOT = Path(__file__).resolve().parents[1]
_MARKS = "<!-- suites -->\n", "<!-- /suites -->\n"


def run(suite: Any, verbose: bool) -> tuple[int, Counter[str]]:
    """How many cases pass, and the reasons of the others."""
    passed, reasons = 0, Counter[str]()
    for name, check in suite.cases():
        try:
            check()
            passed += 1
        except SkipTest as error:  # neither: it did not run
            if verbose:
                print(f"{name}: skipped, {error}", file=sys.stderr)
        except Exception as error:
            text = str(error).strip() or type(error).__name__
            reasons["second derivatives" if "second derivatives" in name else text.splitlines()[0][:100]] += 1
            if verbose:
                print(f"{name}: {text}", file=sys.stderr)
    return passed, reasons


def main() -> int:
    """The command."""
    sys.path.insert(0, str(ROOT / "tests"))
    suites: dict[str, Any] = import_module("suites").SUITES
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("suites", nargs="*", choices=[*suites, []], help="all by default")
    parser.add_argument("--write", action="store_true", help="put the table into docs/interop.md")
    parser.add_argument("--verbose", action="store_true", help="print what fails")
    options = parser.parse_args()
    if options.write and options.suites:
        parser.error("--write: expected all suites, because the whole table is replaced")
    lines = ["| suite | pass | can't | for want of |", "|---|---|---|---|"]
    for key in options.suites or suites:
        suite = suites[key]
        if missing := [package for package in suite.needs if find_spec(package) is None]:
            print(f"{key}: left out, {', '.join(missing)} is not installed", file=sys.stderr)
            continue
        passed, reasons = run(suite, options.verbose)
        listed = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(5)) or "-"
        lines.append(f"| {suite.title} | {passed} | {sum(reasons.values())} | {listed} |")
        print(lines[-1], flush=True)
    if options.write:
        page = ROOT / "docs" / "interop.md"
        table = "\n".join(lines) + "\n"
        begin, end = _MARKS
        pattern = re.escape(begin) + ".*?" + re.escape(end)
        page.write_text(re.sub(pattern, lambda _: f"{begin}{table}{end}", page.read_text(), flags=re.DOTALL))
    return 0


if __name__ == "__main__":
    sys.exit(main())
