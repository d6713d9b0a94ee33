"""The oracle: recurrent layers, heads, losses and truncated BPTT in plain NumPy, float64.

Every fast path of rnnfast is tested against this package, and this package is tested against finite differences and
numbers worked out by hand. So it is written to be read: one loop over time, one small pair of functions per cell (one
step forward, one step backward), and nothing that is there for speed. It needs NumPy alone and never calls the rest of
rnnfast. Anyone may import it: to check a kernel of their own, or to see what a gate does.

Notation (the same as in ``docs/design.md``)
    ``T`` steps, ``B`` rows, ``I`` input size, ``H`` hidden size, ``G`` gates, ``D`` directions, ``L`` layers;
    ``x[T, B, I]``, ``y[T, B, H]``, states ``[B, H]``. At step ``t``, ``x_t`` comes in, ``h_prev`` is the state before
    the step, ``h`` the state after it. ``dz`` is dLoss/dz. ``a = W x_t + b_ih`` is the input's share of the gates,
    ``[B, G*H]``, in PyTorch's gate order: LSTM ``i, f, g, o``; GRU ``r, z, n``. A *state* is a tuple: ``(h,)``, or
    ``(h, c)`` for the LSTM, wherever one step hands it to the next.

Where to read
    ``cells.py``: the formulas. ``layer.py``: the loop over time, and what masks mean. ``stack.py``: layers and
    directions. ``heads.py``, ``losses.py``: what stands on top. ``tbptt.py``: training by windows, by its definition.

Rejected
    Automatic differentiation: it would need a framework, and hides the formulas that the kernels must implement.
    Products over all time steps at once: faster, but then padding has to be masked out of them, and masks are what
    this package is to define. Indexing weights by ids: a one-hot row per step is the definition. Float32: the oracle's
    own error must not matter.
"""

from __future__ import annotations

from .activations import ACTIVATIONS, Activation, relu, sigmoid, softmax
from .arguments import lengths_mask, one_hot
from .cells import CELLS, Cell, StepGradients
from .heads import DenseGradients, DenseResult, dense_backward, dense_forward
from .layer import Gradients, Result, Step, backward, forward
from .losses import LOSSES, binary_cross_entropy, mean_squared_error, softmax_cross_entropy
from .stack import StackGradients, StackResult, stack_backward, stack_forward
from .tbptt import TbpttWindow, tbptt_reference
from .testing import init_params, init_stack_params, numerical_gradient

__all__ = [
    "ACTIVATIONS",
    "CELLS",
    "LOSSES",
    "Activation",
    "Cell",
    "DenseGradients",
    "DenseResult",
    "Gradients",
    "Result",
    "StackGradients",
    "StackResult",
    "Step",
    "StepGradients",
    "TbpttWindow",
    "backward",
    "binary_cross_entropy",
    "dense_backward",
    "dense_forward",
    "forward",
    "init_params",
    "init_stack_params",
    "lengths_mask",
    "mean_squared_error",
    "numerical_gradient",
    "one_hot",
    "relu",
    "sigmoid",
    "softmax",
    "softmax_cross_entropy",
    "stack_backward",
    "stack_forward",
    "tbptt_reference",
]
