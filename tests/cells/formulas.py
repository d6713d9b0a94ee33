"""Each cell's step as its paper writes it: plain NumPy, float64, nothing of the package under test.

A formula takes the parameters by name, one step's x [B, I], the states before it, what is given at it, and the cell
(for the numbers among its options). It returns the states after it.
"""

from __future__ import annotations

import numpy as np


def sigma(a):
    return 1.0 / (1.0 + np.exp(-a))


def relu(a):
    return np.maximum(a, 0.0)


def identity(a):
    return a


def sums(p, x, h, gates, matrix=None):
    """W x + b_ih + U h + b_hh, one array per gate."""
    u = p["weight_hh"] if matrix is None else matrix
    return np.split(x @ p["weight_ih"].T + p["bias_ih"] + h @ u.T + p["bias_hh"], gates, axis=1)


def from_x(p, x, gates):
    """W x + b_ih, one array per gate."""
    return np.split(x @ p["weight_ih"].T + p["bias_ih"], gates, axis=1)


def block_diagonal(weight, gates, heads):
    """[G*H, H/heads] written out as the dense [G*H, H] that it stands for."""
    rows, part = weight.shape
    size = rows // gates
    dense = np.zeros((rows, size))
    for row in range(rows):
        head = (row % size) // (size // heads)
        dense[row, head * part : (head + 1) * part] = weight[row]
    return dense


def layer_norm(a, eps):
    centred = a - a.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + eps)


# Elman, Jordan, IndRNN


def elman(activation, leak=1.0):
    def step(p, x, state, given, cell):
        (h,) = state
        (a,) = sums(p, x, h, 1)
        return ((1.0 - leak) * h + leak * activation(a),)

    return step


def elman_clip(p, x, state, given, cell):
    (a,) = sums(p, x, state[0], 1)
    return (0.7 * np.clip(a, -0.5, 0.5) + 0.1,)


def jordan(p, x, state, given, cell):
    (y,) = state
    (a,) = sums(p, x, y, 1)
    return (np.tanh(a) @ p["weight_hy"].T + p["bias_y"],)


def jordan_decay(p, x, state, given, cell):
    """The context is the decaying sum of all outputs before the step."""
    y, s = state
    (a,) = sums(p, x, s, 1)
    y = np.tanh(sigma(a) @ p["weight_hy"].T + p["bias_y"])
    return y, 0.5 * s + y


def indrnn(activation):
    def step(p, x, state, given, cell):
        (a,) = from_x(p, x, 1)
        return (activation(a + p["u"] * state[0]),)

    return step


# LSTM


def lstm(gates=sigma, candidate=np.tanh, output=np.tanh, heads=1):
    def step(p, x, state, given, cell):
        h, c = state
        u = block_diagonal(p["weight_hh"], 4, heads)
        i, f, g, o = sums(p, x, h, 4, u)
        c = gates(f) * c + gates(i) * candidate(g)
        return gates(o) * output(c), c

    return step


def lstm_proj(p, x, state, given, cell):
    h, c = state
    i, f, g, o = sums(p, x, h, 4)
    c = sigma(f) * c + sigma(i) * np.tanh(g)
    return (sigma(o) * np.tanh(c)) @ p["weight_hr"].T, c


def lstm_peephole(p, x, state, given, cell):
    h, c_prev = state
    i, f, g, o = sums(p, x, h, 4)
    c = sigma(f + p["p_f"] * c_prev) * c_prev + sigma(i + p["p_i"] * c_prev) * np.tanh(g)
    return sigma(o + p["p_o"] * c) * np.tanh(c), c


def lstm_coupled(p, x, state, given, cell):
    h, c = state
    i, g, o = sums(p, x, h, 3)
    c = (1.0 - sigma(i)) * c + sigma(i) * np.tanh(g)
    return sigma(o) * np.tanh(c), c


def lstm_clip(p, x, state, given, cell):
    h, c = state
    i, f, g, o = (np.clip(a, -1.0, 1.0) for a in sums(p, x, h, 4))
    c = np.clip(sigma(f) * c + sigma(i) * np.tanh(g), -0.3, 0.3)
    return np.clip((sigma(o) * np.tanh(c)) @ p["weight_hr"].T, -0.1, 0.1), c


def lstm_layer_norm(p, x, state, given, cell):
    """Ba et al. with their vectors of 4*H numbers: LN(U h) and LN(W x) over all four gates' sums at once."""
    h, c = state
    alpha_h = np.concatenate([p[f"gain_h_{gate}"] for gate in "ifgo"])
    alpha_x = np.concatenate([p[f"gain_x_{gate}"] for gate in "ifgo"])
    shift = np.concatenate([p[f"shift_{gate}"] for gate in "ifgo"])
    from_h = layer_norm(h @ p["weight_hh"].T + p["bias_hh"], 1e-5) * alpha_h
    a = from_h + layer_norm(x @ p["weight_ih"].T + p["bias_ih"], 1e-5) * alpha_x + shift
    i, f, g, o = np.split(a, 4, axis=1)
    c = sigma(f) * c + sigma(i) * np.tanh(g)
    return sigma(o) * np.tanh(layer_norm(c, 1e-5) * p["gain_c"] + p["shift_c"]), c


def lstm_everything(p, x, state, given, cell):
    h, c = state
    alpha_h, alpha_x, shift = (
        np.concatenate([p[f"{kind}_{gate}"] for gate in "igo"]) for kind in ("gain_h", "gain_x", "shift")
    )
    a = layer_norm(h @ p["weight_hh"].T + p["bias_hh"], 1e-5) * alpha_h
    a = a + layer_norm(x @ p["weight_ih"].T + p["bias_ih"], 1e-5) * alpha_x + shift
    i, g, o = np.split(a, 3, axis=1)
    i = sigma(np.clip(i + p["p_i"] * c, -2.0, 2.0))
    c = np.clip((1.0 - i) * c + i * np.tanh(np.clip(g, -2.0, 2.0)), -0.5, 0.5)
    o = sigma(np.clip(o + p["p_o"] * c, -2.0, 2.0))
    h = o * np.tanh(layer_norm(c, 1e-5) * p["gain_c"] + p["shift_c"])
    return np.clip(h @ p["weight_hr"].T, -0.3, 0.3), c


def hard_sigmoid(a):
    return np.clip(0.2 * a + 0.5, 0.0, 1.0)


def softsign(a):
    return a / (1.0 + np.abs(a))


# GRU and its kin


def gru_after(gates=sigma, candidate=np.tanh, bound=np.inf, heads=1):
    def step(p, x, state, given, cell):
        (h,) = state
        size = h.shape[1]
        r_x, z_x, n_x = from_x(p, x, 3)
        u = block_diagonal(p["weight_hh"], 3, heads)
        r_h, z_h, n_h = (h @ u[k * size : (k + 1) * size].T + p["bias_hh"][k * size : (k + 1) * size] for k in range(3))
        r = gates(np.clip(r_x + r_h, -bound, bound))
        z = gates(np.clip(z_x + z_h, -bound, bound))
        n = candidate(np.clip(n_x + r * n_h, -bound, bound))
        return ((1.0 - z) * n + z * h,)

    return step


def gru_before(heads=1):
    def step(p, x, state, given, cell):
        (h,) = state
        r_x, z_x, n_x = from_x(p, x, 3)
        u_r, u_z, u_n = np.split(block_diagonal(p["weight_hh"], 3, heads), 3)
        b_r, b_z, b_n = np.split(p["bias_hh"], 3)
        r, z = sigma(r_x + h @ u_r.T + b_r), sigma(z_x + h @ u_z.T + b_z)
        n = np.tanh(n_x + (r * h) @ u_n.T + b_n)
        return ((1.0 - z) * n + z * h,)

    return step


def gru_layer_norm(p, x, state, given, cell):
    (h,) = state
    size = h.shape[1]
    a_x, a_h = x @ p["weight_ih"].T + p["bias_ih"], h @ p["weight_hh"].T + p["bias_hh"]
    gain_x, gain_h = (np.concatenate([p[f"gain_{side}_r"], p[f"gain_{side}_z"]]) for side in "xh")
    shift = np.concatenate([p["shift_r"], p["shift_z"]])
    both = layer_norm(a_x[:, : 2 * size], 1e-5) * gain_x + layer_norm(a_h[:, : 2 * size], 1e-5) * gain_h + shift
    r, z = np.split(sigma(both), 2, axis=1)
    n_x = layer_norm(a_x[:, 2 * size :], 1e-5) * p["gain_x_n"] + p["shift_x_n"]
    n_h = layer_norm(a_h[:, 2 * size :], 1e-5) * p["gain_h_n"] + p["shift_h_n"]
    return ((1.0 - z) * np.tanh(n_x + r * n_h) + z * h,)


def mgu(p, x, state, given, cell):
    (h,) = state
    f_x, n_x = from_x(p, x, 2)
    u_f, u_n = np.split(p["weight_hh"], 2)
    b_f, b_n = np.split(p["bias_hh"], 2)
    f = sigma(f_x + h @ u_f.T + b_f)
    return ((1.0 - f) * h + f * np.tanh(n_x + (f * h) @ u_n.T + b_n),)


def ligru(activation):
    def step(p, x, state, given, cell):
        (h,) = state
        z, n = sums(p, x, h, 2)
        return (sigma(z) * h + (1.0 - sigma(z)) * activation(n),)

    return step


def block_gru(norm):
    def step(p, x, state, given, cell):
        (h,) = state
        a = x @ p["weight_ih"].T + p["bias_ih"] + h @ block_diagonal(p["weight_hh"], 3, 2).T + p["bias_hh"]
        if norm == "rms":
            a = a / np.sqrt((a**2).mean(axis=1, keepdims=True) + 1e-4)
        if norm == "layer":
            a = layer_norm(a, 1e-4)
        if norm != "none":
            a = a * np.concatenate([p[f"gain_{gate}"] for gate in "rnu"])
        if norm == "layer":
            a = a + np.concatenate([p[f"shift_{gate}"] for gate in "rnu"])
        reset, candidate, update = np.split(a, 3, axis=1)
        update = sigma(update - 1.0)
        return (update * np.tanh(sigma(reset) * candidate) + (1.0 - update) * h,)

    return step


def augru(p, x, state, given, cell):
    (h,) = state
    r_x, u_x, n_x = from_x(p, x, 3)
    u_r, u_u, u_n = np.split(p["weight_hh"], 3)
    b_r, b_u, b_n = np.split(p["bias_hh"], 3)
    u = given["a"][:, None] * sigma(u_x + h @ u_u.T + b_u)
    n = np.tanh(n_x + sigma(r_x + h @ u_r.T + b_r) * (h @ u_n.T + b_n))
    return ((1.0 - u) * h + u * n,)


def grud(p, x, state, given, cell):
    (h,) = state
    mask, delta = given["mask"], given["delta"]
    h = np.exp(-relu(delta @ p["weight_d"].T + p["bias_d"])) * h
    r_x, z_x, n_x = from_x(p, x, 3)
    u_r, u_z, u_n = np.split(p["weight_hh"], 3)
    b_r, b_z, b_n = np.split(p["bias_hh"], 3)
    r = sigma(r_x + h @ u_r.T + b_r + mask @ p["weight_mr"].T)
    z = sigma(z_x + h @ u_z.T + b_z + mask @ p["weight_mz"].T)
    n = np.tanh(n_x + (r * h) @ u_n.T + b_n + mask @ p["weight_mn"].T)
    return ((1.0 - z) * h + z * n,)


# Without a recurrent matrix, and xLSTM


def slstm(forget, heads=1):
    def step(p, x, state, given, cell):
        """The paper's unstabilised form, on the states as they would be without m: c e^m, n e^m."""
        h, c, n, m = state
        i, f, z, o = sums(p, x, h, 4, block_diagonal(p["weight_hh"], 4, heads))
        log_f = f if forget == "exp" else np.log(sigma(f))
        c_full = np.exp(log_f) * c * np.exp(m) + np.exp(i) * np.tanh(z)
        n_full = np.exp(log_f) * n * np.exp(m) + np.exp(i)
        m = np.where(n == 0.0, i, np.maximum(log_f + m, i))
        return sigma(o) * c_full / n_full, c_full * np.exp(-m), n_full * np.exp(-m), m

    return step


def positive(a):
    return np.where(a >= 0.0, a + 0.5, sigma(a))


def mingru(g):
    def step(p, x, state, given, cell):
        z, n = from_x(p, x, 2)
        return ((1.0 - sigma(z)) * state[0] + sigma(z) * g(n),)

    return step


def minlstm(g):
    def step(p, x, state, given, cell):
        f, i, n = from_x(p, x, 3)
        f, i = sigma(f), sigma(i)
        return (f / (f + i) * state[0] + i / (f + i) * g(n),)

    return step


def sru(p, x, state, given, cell):
    _, c_prev = state
    n, f, r, highway = from_x(p, x, 4)
    f, r = sigma(f + p["v_f"] * c_prev), sigma(r + p["v_r"] * c_prev)
    c = f * c_prev + (1.0 - f) * n
    return r * c + (1.0 - r) * highway, c


def lru(p, x, state, given, cell):
    """In complex numbers, as the paper has it."""
    s = state[-2] + 1j * state[-1]
    size = s.shape[1]
    b = p["weight_ih"][:size] + 1j * p["weight_ih"][size : 2 * size]
    bias = p["bias_ih"][:size] + 1j * p["bias_ih"][size : 2 * size]
    eigenvalue = np.exp(-np.exp(p["nu_log"]) + 1j * np.exp(p["theta_log"]))
    s = eigenvalue * s + np.exp(p["gamma_log"]) * (x @ b.T + bias)
    if len(state) == 2:
        return s.real, s.imag
    c = p["weight_re"] + 1j * p["weight_im"]
    y = (s @ c.T).real + x @ p["weight_ih"][2 * size :].T + p["bias_ih"][2 * size :]
    return y, s.real, s.imag


def rglru(p, x, state, given, cell):
    r, i, v = from_x(p, x, 3)
    a = sigma(p["decay"]) ** (8.0 * sigma(r))
    return (a * state[0] + np.sqrt(1.0 - a**2) * (sigma(i) * v),)


def cfc(gated):
    def step(p, x, state, given, cell):
        ff1, ff2, time_a, time_b = sums(p, x, state[0], 4)
        interpolation = sigma(time_a * given["dt"][:, None] + time_b)
        keep = 1.0 - interpolation if gated else 1.0
        return (np.tanh(ff1) * keep + interpolation * np.tanh(ff2),)

    return step


FORMULAS = {
    "elman": elman(np.tanh),
    "elman_relu": elman(relu),
    "elman_sigmoid": elman(sigma),
    "elman_leaky": elman(np.tanh, leak=0.3),
    "elman_clip": elman_clip,
    "jordan": jordan,
    "jordan_decay": jordan_decay,
    "indrnn": indrnn(relu),
    "indrnn_tanh": indrnn(np.tanh),
    "lstm": lstm(),
    "lstm_proj": lstm_proj,
    "lstm_peephole": lstm_peephole,
    "lstm_coupled": lstm_coupled,
    "lstm_clip": lstm_clip,
    "lstm_layer_norm": lstm_layer_norm,
    "lstm_heads": lstm(heads=2),
    "lstm_relu": lstm(hard_sigmoid, relu, relu),
    "lstm_everything": lstm_everything,
    "gru_after": gru_after(),
    "gru_before": gru_before(),
    "gru_layer_norm": gru_layer_norm,
    "gru_heads": gru_after(heads=2),
    "gru_before_heads": gru_before(heads=2),
    "gru_clip": gru_after(hard_sigmoid, softsign, bound=0.5),
    "mgu": mgu,
    "ligru": ligru(relu),
    "ligru_tanh": ligru(np.tanh),
    "block_gru": block_gru("rms"),
    "block_gru_layer": block_gru("layer"),
    "block_gru_plain": block_gru("none"),
    "augru": augru,
    "grud": grud,
    "slstm": slstm("sigmoid"),
    "slstm_heads": slstm("sigmoid", heads=2),
    "slstm_exp": slstm("exp"),
    "mingru": mingru(identity),
    "mingru_positive": mingru(positive),
    "minlstm": minlstm(identity),
    "minlstm_positive": minlstm(positive),
    "sru": sru,
    "lru": lru,
    "lru_states": lru,
    "rglru": rglru,
    "cfc": cfc(True),
    "cfc_no_gate": cfc(False),
}
