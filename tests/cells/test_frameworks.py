"""The cells that a framework has as a layer, against that layer: PyTorch's, and ONNX Runtime's with all its options."""

from __future__ import annotations

import numpy as np
import pytest
from cells.problems import Problem

from rnnfast.description.cells.elman import Elman
from rnnfast.description.cells.gru import GRU
from rnnfast.description.cells.lstm import LSTM

T, B, H = 6, 4, 7
SIZES = {"T": T, "B": B, "input_size": 3, "hidden_size": H, "mask": "none"}


class TestTorch:
    """nn.LSTM with proj_size: outputs, both final states, and every gradient."""

    @pytest.fixture(scope="class")
    def torch(self):
        return pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")

    @pytest.mark.parametrize("proj_size", [0, 1, 4])
    def test_lstm_proj_size(self, torch, proj_size):
        problem = Problem(LSTM(proj_size=proj_size), **SIZES)
        module = torch.nn.LSTM(SIZES["input_size"], H, proj_size=proj_size, dtype=torch.float64)
        module.load_state_dict({f"{name}_l0": torch.tensor(value) for name, value in problem.params.items()})

        x, h0, c0 = (torch.tensor(value, requires_grad=True) for value in (problem.x, *problem.state))
        y, (h, c) = module(x, (h0[None], c0[None]))
        result = problem.forward()
        for ours, theirs in zip((result.y, *result.state), (y, h[0], c[0]), strict=True):
            np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-13)

        sum(
            (output * torch.tensor(weight)).sum()
            for output, weight in zip((y, h[0], c[0]), (problem.dy, *problem.dstate), strict=True)
        ).backward()
        gradients = problem.backward(result)
        ours = {"x": gradients.dx, "h": gradients.dstate[0], "c": gradients.dstate[1], **gradients.params}
        theirs = {"x": x, "h": h0, "c": c0} | {name: getattr(module, f"{name}_l0") for name in problem.params}
        for name in theirs:
            np.testing.assert_allclose(ours[name], theirs[name].grad.numpy(), atol=1e-12, err_msg=name)


class TestOnnxRuntime:
    """The operators RNN, GRU and LSTM, in float32, with all options of theirs that a cell has."""

    @pytest.fixture(scope="class")
    def operator(self):
        onnx = pytest.importorskip("onnx", reason="ONNX is not installed: no model can be written")
        runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed: nothing to compare with")

        def run(kind, inputs, **attributes):
            """Y [T, B, H]; `inputs` by the operator's names, None for one that is left out."""
            feeds = {name: value.astype(np.float32) for name, value in inputs.items() if value is not None}
            names = [name if name in feeds else "" for name in inputs]
            node = onnx.helper.make_node(kind, names, ["Y"], hidden_size=H, **attributes)
            number = onnx.TensorProto.FLOAT
            graph = onnx.helper.make_graph(
                [node],
                "one",
                [onnx.helper.make_tensor_value_info(name, number, value.shape) for name, value in feeds.items()],
                [onnx.helper.make_tensor_value_info("Y", number, [T, 1, B, H])],
            )
            model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
            session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
            return session.run(None, feeds)[0][:, 0]

        return run

    def inputs(self, problem, gates, order):
        """X, W, R, B with our gates in ONNX's `order`; a gate that we do not have is zero there."""

        def blocks(name):
            ours = dict(zip(gates, np.split(problem.params[name], len(gates)), strict=True))
            return np.concatenate([ours.get(gate, np.zeros_like(ours[gates[0]])) for gate in order])

        bias = np.concatenate([blocks("bias_ih"), blocks("bias_hh")])
        return {"X": problem.x, "W": blocks("weight_ih")[None], "R": blocks("weight_hh")[None], "B": bias[None]}

    def compare(self, problem, theirs):
        np.testing.assert_allclose(problem.forward().y, theirs, atol=2e-6)

    ACTIVATIONS = (
        ("Affine", 0.6, 0.1),
        ("Elu", 0.6),
        ("HardSigmoid", 0.3, 0.4),
        ("LeakyRelu", 0.3),
        ("Relu",),
        ("ScaledTanh", 0.7, 0.8),
        ("Sigmoid",),
        ("Softplus",),
        ("Softsign",),
        ("Tanh",),
        ("ThresholdedRelu", 0.4),
    )

    def attributes(self, activations):
        """ONNX's lists: the alphas of those activations that have one, in order; the betas likewise."""
        lists = {
            "activations": [name for name, *_ in activations],
            "activation_alpha": [float(numbers[0]) for _, *numbers in activations if numbers],
            "activation_beta": [float(numbers[1]) for _, *numbers in activations if len(numbers) > 1],
        }
        return {name: values for name, values in lists.items() if values}

    @pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda value: value[0])
    @pytest.mark.parametrize("clip", [None, 0.5])
    def test_rnn(self, operator, activation, clip):
        cell = Elman(activation=activation, gate_clip=clip)
        problem = Problem(cell, **SIZES, scale=0.4)
        inputs = self.inputs(problem, "h", "h") | {"lengths": None, "initial_h": problem.state[0][None]}
        clipping = {} if clip is None else {"clip": clip}
        self.compare(problem, operator("RNN", inputs, **self.attributes([activation]), **clipping))

    @pytest.mark.parametrize("reset_after", [True, False])
    @pytest.mark.parametrize("clip", [None, 0.5])
    @pytest.mark.parametrize(
        "activations",
        [(("Sigmoid",), ("Tanh",)), (("HardSigmoid", 0.3, 0.4), ("Softsign",)), (("Tanh",), ("Elu", 0.6))],
    )
    def test_gru(self, operator, reset_after, clip, activations):
        cell = GRU(reset_after=reset_after, activations=activations, gate_clip=clip)
        problem = Problem(cell, **SIZES)
        inputs = self.inputs(problem, "rzn", "zrn") | {"lengths": None, "initial_h": problem.state[0][None]}
        options = self.attributes(activations) | ({} if clip is None else {"clip": clip})
        self.compare(problem, operator("GRU", inputs, linear_before_reset=int(reset_after), **options))

    @pytest.mark.parametrize("peephole", [True, False])
    @pytest.mark.parametrize("coupled", [True, False])
    @pytest.mark.parametrize("clip", [None, 0.5])
    @pytest.mark.parametrize(
        "activations",
        [
            (("Sigmoid",), ("Tanh",), ("Tanh",)),
            (("HardSigmoid", 0.3, 0.4), ("ScaledTanh", 0.7, 0.8), ("LeakyRelu", 0.2)),
        ],
    )
    def test_lstm(self, operator, peephole, coupled, clip, activations):
        cell = LSTM(peephole=peephole, coupled=coupled, gate_clip=clip, activations=activations)
        problem = Problem(cell, **SIZES)
        peepholes = [problem.params.get(f"p_{gate}", np.zeros(H)) for gate in "iof"] if peephole else None
        inputs = self.inputs(problem, "igo" if coupled else "ifgo", "iofg") | {
            "lengths": None,
            "initial_h": problem.state[0][None],
            "initial_c": problem.state[1][None],
            "P": np.concatenate(peepholes)[None] if peephole else None,
        }
        options = self.attributes(activations) | ({} if clip is None else {"clip": clip})
        self.compare(problem, operator("LSTM", inputs, input_forget=int(coupled), **options))
