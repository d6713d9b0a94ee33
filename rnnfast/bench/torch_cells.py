"""The cells of the group cells as a user of PyTorch would write them: a step per cell, and a loop over time.

Each step takes x of one time step, the states, our parameters by name, and what the cell is given besides, and returns
the new states, of which the first is the output. They keep to what TorchScript understands. Rejected: classes of
modules (the parameters' names would have to be ours anyway, and scripting one function is simpler).

Without PyTorch the module can be imported, and nothing in it called.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from itertools import repeat
from typing import Any, Dict, List  # noqa: UP035  (what TorchScript reads)

from .described import DESCRIBED
from .ours import repeated
from .peers import torch_gradients
from .work import Answer, Contestant, Unavailable, Work

__all__ = ["PREPARED", "STEPS", "answer", "contestant", "loop", "scripted"]

try:  # TorchScript looks for these among the module's names, so that no function can import them
    import torch
    from torch import Tensor
    from torch.nn.functional import layer_norm, linear, logsigmoid, softplus
except ImportError:
    Tensor = Any

States = List[Tensor]  # noqa: UP006
Params = Dict[str, Tensor]  # noqa: UP006


def _sums(x: Tensor, h: Tensor, p: Params) -> Tensor:
    return linear(x, p["weight_ih"], p["bias_ih"]) + linear(h, p["weight_hh"], p["bias_hh"])


def rnn(x: Tensor, state: States, p: Params, given: States) -> States:
    return [torch.tanh(_sums(x, state[0], p))]


def rnn_leak(x: Tensor, state: States, p: Params, given: States) -> States:
    return [torch.lerp(state[0], torch.tanh(_sums(x, state[0], p)), 0.3)]


def jordan(x: Tensor, state: States, p: Params, given: States) -> States:
    return [linear(torch.tanh(_sums(x, state[0], p)), p["weight_hy"], p["bias_y"])]


def _lstm(i: Tensor, f: Tensor, g: Tensor, o: Tensor, c: Tensor) -> States:
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return [torch.sigmoid(o) * torch.tanh(c), c]


def lstm(x: Tensor, state: States, p: Params, given: States) -> States:
    i, f, g, o = _sums(x, state[0], p).chunk(4, -1)
    return _lstm(i, f, g, o, state[1])


def lstm_proj(x: Tensor, state: States, p: Params, given: States) -> States:
    i, f, g, o = _sums(x, state[0], p).chunk(4, -1)
    new = _lstm(i, f, g, o, state[1])
    return [linear(new[0], p["weight_hr"]), new[1]]


def lstm_peephole(x: Tensor, state: States, p: Params, given: States) -> States:
    i, f, g, o = _sums(x, state[0], p).chunk(4, -1)
    c = state[1]
    c = torch.sigmoid(f + p["p_f"] * c) * c + torch.sigmoid(i + p["p_i"] * c) * torch.tanh(g)
    return [torch.sigmoid(o + p["p_o"] * c) * torch.tanh(c), c]


def lstm_coupled(x: Tensor, state: States, p: Params, given: States) -> States:
    i, g, o = _sums(x, state[0], p).chunk(3, -1)
    c = torch.lerp(state[1], torch.tanh(g), torch.sigmoid(i))
    return [torch.sigmoid(o) * torch.tanh(c), c]


def lstm_clip(x: Tensor, state: States, p: Params, given: States) -> States:
    i, f, g, o = _sums(x, state[0], p).chunk(4, -1)
    c = (torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)).clamp(-0.5, 0.5)
    return [torch.sigmoid(o) * torch.tanh(c), c]


def lstm_layer_norm(x: Tensor, state: States, p: Params, given: States) -> States:
    from_x = linear(x, p["weight_ih"], p["bias_ih"])
    from_h = linear(state[0], p["weight_hh"], p["bias_hh"])
    width = [from_x.shape[-1]]
    sums = layer_norm(from_x, width, p["gain_x"], p["shift"]) + layer_norm(from_h, width, p["gain_h"])
    i, f, g, o = sums.chunk(4, -1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    shown = layer_norm(c, [c.shape[-1]], p["gain_c"], p["shift_c"])
    return [torch.sigmoid(o) * torch.tanh(shown), c]


def gru(x: Tensor, state: States, p: Params, given: States) -> States:
    r_x, z_x, n_x = linear(x, p["weight_ih"], p["bias_ih"]).chunk(3, -1)
    r_h, z_h, n_h = linear(state[0], p["weight_hh"], p["bias_hh"]).chunk(3, -1)
    n = torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h)
    return [torch.lerp(n, state[0], torch.sigmoid(z_x + z_h))]


def gru_layer_norm(x: Tensor, state: States, p: Params, given: States) -> States:
    h = state[0]
    H = h.shape[-1]
    from_x, from_h = linear(x, p["weight_ih"], p["bias_ih"]), linear(h, p["weight_hh"], p["bias_hh"])
    gates = layer_norm(from_x[..., : 2 * H], [2 * H], p["gain_x"], p["shift"])
    gates = torch.sigmoid(gates + layer_norm(from_h[..., : 2 * H], [2 * H], p["gain_h"]))
    r, z = gates.chunk(2, -1)
    n_x = layer_norm(from_x[..., 2 * H :], [H], p["gain_x_n"], p["shift_x_n"])
    n_h = layer_norm(from_h[..., 2 * H :], [H], p["gain_h_n"], p["shift_h_n"])
    return [torch.lerp(torch.tanh(n_x + r * n_h), h, z)]


def ligru(x: Tensor, state: States, p: Params, given: States) -> States:
    z, n = _sums(x, state[0], p).chunk(2, -1)
    return [torch.lerp(torch.relu(n), state[0], torch.sigmoid(z))]


def mgu(x: Tensor, state: States, p: Params, given: States) -> States:
    h = state[0]
    H = h.shape[-1]
    f_x, n_x = linear(x, p["weight_ih"], p["bias_ih"]).chunk(2, -1)
    f = torch.sigmoid(f_x + linear(h, p["weight_hh"][:H], p["bias_hh"][:H]))
    n = torch.tanh(n_x + linear(f * h, p["weight_hh"][H:], p["bias_hh"][H:]))
    return [torch.lerp(h, n, f)]


def slstm(x: Tensor, state: States, p: Params, given: States) -> States:
    i, f, z, o = _sums(x, state[0], p).chunk(4, -1)
    past = logsigmoid(f) + state[3]
    m = torch.where(state[2] > 0, torch.maximum(past, i), i)
    keep, take = torch.exp(past - m), torch.exp(i - m)
    c = keep * state[1] + take * torch.tanh(z)
    n = keep * state[2] + take
    return [torch.sigmoid(o) * c / n, c, n, m]


def augru(x: Tensor, state: States, p: Params, given: States) -> States:
    h = state[0]
    r_x, u_x, n_x = linear(x, p["weight_ih"], p["bias_ih"]).chunk(3, -1)
    r_h, u_h, n_h = linear(h, p["weight_hh"], p["bias_hh"]).chunk(3, -1)
    n = torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h)
    return [torch.lerp(h, n, given[0][..., None] * torch.sigmoid(u_x + u_h))]


def grud(x: Tensor, state: States, p: Params, given: States) -> States:
    mask, delta = given[0], given[1]
    d = torch.exp(-torch.relu(linear(delta, p["weight_d"], p["bias_d"]))) * state[0]
    H = d.shape[-1]
    sums = linear(x, p["weight_ih"], p["bias_ih"]) + linear(mask, p["weight_m"])
    gates = torch.sigmoid(sums[..., : 2 * H] + linear(d, p["weight_hh"][: 2 * H], p["bias_hh"][: 2 * H]))
    r, z = gates.chunk(2, -1)
    n = torch.tanh(sums[..., 2 * H :] + linear(r * d, p["weight_hh"][2 * H :], p["bias_hh"][2 * H :]))
    return [torch.lerp(d, n, z)]


def cfc(x: Tensor, state: States, p: Params, given: States) -> States:
    g, n, a, b = _sums(x, state[0], p).chunk(4, -1)
    s = torch.sigmoid(a * given[0][..., None] + b)
    return [torch.lerp(torch.tanh(g), torch.tanh(n), s)]


def block_gru(x: Tensor, state: States, p: Params, given: States) -> States:
    h = state[0]
    heads = p["blocks"].shape[0]
    parts = torch.bmm(h.unflatten(-1, [heads, -1]).transpose(0, 1), p["blocks"])
    from_h = parts.unflatten(-1, [3, -1]).permute(1, 2, 0, 3).flatten(1)
    sums = linear(x, p["weight_ih"], p["bias_ih"]) + from_h + p["bias_hh"]
    sums = sums * torch.rsqrt(sums.square().mean(-1, keepdim=True) + 1e-4) * p["gain"]
    r, n, u = sums.chunk(3, -1)
    return [torch.lerp(h, torch.tanh(torch.sigmoid(r) * n), torch.sigmoid(u - 1.0))]


def _rotated(re: Tensor, im: Tensor, state_re: Tensor, state_im: Tensor, p: Params) -> States:
    return [
        p["a"] * state_re - p["b"] * state_im + p["gamma"] * re,
        p["a"] * state_im + p["b"] * state_re + p["gamma"] * im,
    ]


def lru(x: Tensor, state: States, p: Params, given: States) -> States:
    re, im, d = linear(x, p["weight_ih"], p["bias_ih"]).chunk(3, -1)
    new = _rotated(re, im, state[1], state[2], p)
    return [linear(new[0], p["weight_re"]) - linear(new[1], p["weight_im"]) + d, new[0], new[1]]


def lru_states(x: Tensor, state: States, p: Params, given: States) -> States:
    # Rejected: chunk(2, -1), whose derivative TorchScript gets wrong here (it mixes up the sizes of bias and chunk).
    H = state[0].shape[-1]
    from_x = linear(x, p["weight_ih"], p["bias_ih"])
    return _rotated(from_x[..., :H], from_x[..., H:], state[0], state[1], p)


def indrnn(x: Tensor, state: States, p: Params, given: States) -> States:
    return [torch.relu(linear(x, p["weight_ih"], p["bias_ih"]) + p["u"] * state[0])]


def mingru(x: Tensor, state: States, p: Params, given: States) -> States:
    z, n = linear(x, p["weight_ih"], p["bias_ih"]).chunk(2, -1)
    return [torch.lerp(state[0], n, torch.sigmoid(z))]


def minlstm(x: Tensor, state: States, p: Params, given: States) -> States:
    f, i, n = linear(x, p["weight_ih"], p["bias_ih"]).chunk(3, -1)
    f, i = torch.sigmoid(f), torch.sigmoid(i)
    return [torch.lerp(n, state[0], f / (f + i))]


def sru(x: Tensor, state: States, p: Params, given: States) -> States:
    n, f, r, highway = linear(x, p["weight_ih"], p["bias_ih"]).chunk(4, -1)
    c = state[1]
    f, r = torch.sigmoid(f + p["v_f"] * c), torch.sigmoid(r + p["v_r"] * c)
    c = torch.lerp(n, c, f)
    return [torch.lerp(highway, c, r), c]


def rglru(x: Tensor, state: States, p: Params, given: States) -> States:
    r, i, v = linear(x, p["weight_ih"], p["bias_ih"]).chunk(3, -1)
    log_a = -8.0 * softplus(-p["decay"]) * torch.sigmoid(r)
    scale = torch.sqrt(-torch.expm1(2.0 * log_a))
    return [torch.exp(log_a) * state[0] + scale * (torch.sigmoid(i) * v)]


# What a module would have as one parameter, or compute once a sequence


def _joined(p: Params, name: str, gates: str) -> Tensor:
    return torch.cat([p[f"{name}_{gate}"] for gate in gates])


def _for_lstm_layer_norm(p: Params) -> Params:
    return {name: _joined(p, name, "ifgo") for name in ("gain_x", "gain_h", "shift")}


def _for_gru_layer_norm(p: Params) -> Params:
    return {name: _joined(p, name, "rz") for name in ("gain_x", "gain_h", "shift")}


def _for_block_gru(p: Params) -> Params:
    size = p["weight_hh"].shape[1]
    blocks = p["weight_hh"].unflatten(0, [3, -1, size]).permute(1, 3, 0, 2).flatten(2)
    return {"blocks": blocks.contiguous(), "gain": _joined(p, "gain", "rnu")}


def _for_grud(p: Params) -> Params:
    return {"weight_m": torch.cat([p["weight_mr"], p["weight_mz"], p["weight_mn"]])}


def _for_lru(p: Params) -> Params:
    radius, angle = torch.exp(-torch.exp(p["nu_log"])), torch.exp(p["theta_log"])
    return {"a": radius * torch.cos(angle), "b": radius * torch.sin(angle), "gamma": torch.exp(p["gamma_log"])}


PREPARED: dict[str, Callable[[Params], Params]] = {
    "lstm_layer_norm": _for_lstm_layer_norm,
    "gru_layer_norm": _for_gru_layer_norm,
    "block_gru": _for_block_gru,
    "grud": _for_grud,
    "lru": _for_lru,
    "lru_states": _for_lru,
}
"""By cell: from the parameters to what its step reads besides."""


# Over time

Sequence = Callable[[Tensor, States, Params, States], Tensor]
"""From x [T, B, I], the first states, the parameters, and what is given [T, B, ...] to y."""


def loop(step: Any) -> Sequence:
    """A loop in Python."""

    def run(x: Tensor, state: States, p: Params, given: States) -> Tensor:
        y = []
        for t in range(x.shape[0]):
            state = step(x[t], state, p, [one[t] for one in given])
            y.append(state[0])
        return torch.stack(y)

    return run


def scripted(step: Any) -> Sequence:
    """The same loop in TorchScript, the step included."""
    step = _scripted(step)

    def run(x: Tensor, state: States, p: Params, given: States) -> Tensor:
        y: States = []
        for t in range(x.shape[0]):
            now: States = []
            for one in given:
                now.append(one[t])
            state = step(x[t], state, p, now)
            y.append(state[0])
        return torch.stack(y)

    found: Sequence = _scripted(run)
    return found


# Who does a row's work


def _compiled(step: Any) -> Any:
    torch.compiler.reset()  # else the sizes of earlier rows count towards the limit of recompilations
    return torch.compile(step, dynamic=False)


def _scripted(step: Any) -> Any:
    with warnings.catch_warnings():  # PyTorch says that it is deprecated; people still run it
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(step)


STEPS: dict[str, Callable[[Any], Any]] = {
    "PyTorch loop": lambda step: step,
    "PyTorch compiled": _compiled,
    "PyTorch scripted": _scripted,
}
"""By column: what is made of a step."""


class _Problem:
    """A row's arrays as tensors."""

    def __init__(self, work: Work, dtype: Any) -> None:
        def tensor(array: Any) -> Tensor:
            return torch.from_numpy(array).to(dtype)

        found, H = DESCRIBED[work.row.cell], work.row.H
        self.cell = work.row.cell
        self.x, self.params = tensor(work.x), {name: tensor(value) for name, value in work.params.items()}
        self.given = [tensor(value) for value in work.masks.get("given", {}).values()]
        self.state = [torch.zeros(work.row.B, work.width if k == 0 else H, dtype=dtype) for k in range(found.states)]

    def prepared(self) -> Params:
        """What the step reads."""
        return {**self.params, **(PREPARED[self.cell](self.params) if self.cell in PREPARED else {})}

    def sequence(self, run: Sequence) -> Callable[[Any], Any]:
        """From x to y."""
        return lambda x: run(x, self.state, self.prepared(), self.given)


def answer(work: Work) -> Answer:
    """The answer to a row's work, in float64."""
    problem = _Problem(work, torch.float64)
    forward = problem.sequence(loop(globals()[work.row.cell]))
    found = torch_gradients(work, problem.params, forward, torch.float64).answer()
    return found if work.row.trains else {"y": found["y"]}


def contestant(work: Work, column: str) -> Contestant:
    """One that has been compiled.

    Raises
    ------
    Unavailable
        It does not run here, as where there is no C++ compiler.
    """
    begin = time.perf_counter()
    try:
        found = (_steps if work.row.single_step else _sequence)(work, column)
        found.loop(3)  # TorchScript compiles in its second and third call
    except Exception as error:  # whatever a compiler raises
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise Unavailable(f"{column} does not run here: {said}") from error
    seconds = time.perf_counter() - begin
    return found._replace(note="" if column == "PyTorch loop" else f"{column} after {seconds:.1f} s of compiling")


def _sequence(work: Work, column: str) -> Contestant:
    """Inference or training over a sequence."""
    problem, step = _Problem(work, torch.float32), globals()[work.row.cell]
    forward = problem.sequence(scripted(step) if column == "PyTorch scripted" else loop(STEPS[column](step)))
    if work.row.trains:
        return torch_gradients(work, problem.params, forward)

    def call() -> Tensor:
        with torch.inference_mode():
            return forward(problem.x)

    return Contestant(work, repeated(call), lambda: {"y": call().numpy()})


def _steps(work: Work, column: str) -> Contestant:
    """Steps that carry the state."""
    problem, step = _Problem(work, torch.float32), STEPS[column](globals()[work.row.cell])
    with torch.inference_mode():
        params = problem.prepared()

    def loop(n: int) -> None:
        with torch.inference_mode():
            x, state, given = problem.x[0], problem.state, [one[0] for one in problem.given]
            for _ in repeat(None, n):
                state = step(x, state, params, given)

    def answer() -> Answer:
        y, state = [], problem.state
        with torch.inference_mode():
            for t, x in enumerate(problem.x):
                state = step(x, state, params, [one[t] for one in problem.given])
                y.append(state[0])
            return {"y": torch.stack(y).numpy()}

    return Contestant(work, loop, answer)
