"""What the doors say where a package is not installed; and that the first of them need none."""

from __future__ import annotations

import pytest
from shared import run_script

USES = {
    "torch": ["interop.from_torch(None)", "interop.to_torch(rnnfast.GRU(1, 1))", "interop.from_packed(None)"],
    "safetensors": ["interop.from_safetensors('a')"],
    "onnx": ["interop.onnx", "interop.onnx_backend", "interop.to_onnx"],
}
SAYS = {
    "torch": "models of PyTorch need PyTorch: pip install torch",
    "safetensors": 'safetensors files need safetensors: pip install "rnnfast[cli]"',
    "onnx": 'models of ONNX need onnx: pip install "rnnfast[onnx]"',
}


@pytest.mark.parametrize("package", USES)
def test_a_missing_package_is_named(package):
    script = f"import sys\nsys.modules[{package!r}] = None\nimport rnnfast\nfrom rnnfast import interop\n"
    for use in USES[package]:
        script += f"try:\n    {use}\nexcept ImportError as error:\n    print(error)\n"
    assert run_script(script).splitlines() == [SAYS[package]] * len(USES[package])


def test_the_package_of_doors_needs_numpy_alone():
    script = (
        "import sys, rnnfast\nrnnfast.interop.from_state_dict\nprint('torch' in sys.modules, 'onnx' in sys.modules)"
    )
    assert run_script(script).split() == ["False", "False"]
