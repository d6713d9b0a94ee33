"""rnnfast as a backend of ONNX: `onnx.backend.test` and other programs run models through it.

Recurrent nodes are run by our layers, all others by onnx's reference evaluator.

Examples
--------
>>> import rnnfast.interop.onnx_backend as backend  # doctest: +SKIP
>>> backend.prepare(model).run([x])  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

from . import onnx as door  # first, since it says what is missing

from onnx.backend.base import Backend, BackendRep  # isort: skip

__all__ = ["Prepared", "RnnfastBackend", "prepare", "run_model", "run_node", "supports_device"]


class Prepared(BackendRep):  # type: ignore[misc]  # onnx's classes are not looked at
    """A model that is ready to run.

    Attributes
    ----------
    graph : rnnfast.interop.onnx.Graph
    """

    def __init__(self, graph: door.Graph) -> None:
        self.graph = graph

    def run(self, inputs: Any, **options: Any) -> tuple[Any, ...]:
        """Run the model.

        Parameters
        ----------
        inputs : sequence of arrays in the order of the graph's inputs, or a mapping by name
        **options
            Not looked at.

        Returns
        -------
        tuple
            The outputs in order.

        Raises
        ------
        TypeError, ValueError
            As of `rnnfast.interop.onnx.Graph`.
        """
        if isinstance(inputs, dict):
            by_name = inputs
        else:
            by_name = dict(zip(self.graph.inputs, inputs, strict=False))
            if len(by_name) != len(inputs):
                raise ValueError(f"inputs: expected at most {len(by_name)} arrays, got {len(inputs)}")
        return tuple(self.graph(by_name).values())


class RnnfastBackend(Backend):  # type: ignore[misc]
    """ONNX's interface of backends."""

    @classmethod
    def is_compatible(cls, model: Any, device: str = "CPU", **options: Any) -> bool:
        """Whether `prepare` takes the model."""
        try:
            cls.prepare(model, device, **options)
        except (TypeError, ValueError):
            return False
        return True

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", **options: Any) -> Prepared:
        """A model that is ready to run; see `rnnfast.interop.onnx.load` for what is refused."""
        if not cls.supports_device(device):
            raise ValueError(f"device: expected 'CPU', got {device!r}")
        return Prepared(door.load(model))

    @classmethod
    def run_model(cls, model: Any, inputs: Any, device: str = "CPU", **options: Any) -> tuple[Any, ...]:
        """Prepare and run a model once."""
        return cls.prepare(model, device).run(inputs)

    @classmethod
    def run_node(
        cls, node: Any, inputs: Any, device: str = "CPU", outputs_info: Any = None, **options: Any
    ) -> tuple[Any, ...]:
        """Run one node on arrays, in the order of its inputs."""
        from onnx import helper

        names = [name for name in node.input if name]
        arrays = dict(zip(names, inputs, strict=True))
        values = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in arrays.items()
        ]
        outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
        model = helper.make_model(helper.make_graph([node], "node", values, outputs))
        return tuple(door.Graph(model, "node")(arrays).values())

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether it is the CPU."""
        return device.split(":")[0].upper() == "CPU"


prepare = RnnfastBackend.prepare
run_model = RnnfastBackend.run_model
run_node = RnnfastBackend.run_node
supports_device = RnnfastBackend.supports_device
