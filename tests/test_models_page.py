"""The code of docs/models.md runs."""

from __future__ import annotations

import re
from pathlib import Path

from shared import run_script

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"


def test_the_code_of_the_page_runs():
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    run_script("\n".join(blocks))
