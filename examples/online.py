"""Follow a signal that changes, learning while it runs: next year's sunspots, from 1700 on.

The series is gone through once, year by year. Each network says how the next year will differ, is told, and learns; no
year is seen twice. The sun is no stationary source: cycles were weak around 1810 and strongest around 1957. Learners
that carry traces (`rnnfast.online`) stand beside truncated backpropagation, which either waits for a window of years
before it learns, or goes back over many years for each new one.

    python examples/online.py --plot online.png
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from rnnfast import LSTM, SRU, TBPTT, Dense, Learner, Model
from rnnfast.losses import mean_squared_error
from rnnfast.optim import Adam

FIRST_COUNTED_YEAR, HIDDEN, LR, WINDOW, BACK = 1800, 24, 3e-3, 11, 22


def load():
    """Years, and roots of the sunspot numbers, whose scatter is about the same in strong and in weak cycles."""
    table = np.loadtxt(Path(__file__).with_name("sunspots.csv"), delimiter=",", skiprows=1)
    return table[:, 0].astype(int), ((np.sqrt(table[:, 1]) - 6) / 3).astype(np.float32)


def make(layer, seed):
    """A network and its optimiser."""
    model = Model(rnn=layer(1, HIDDEN, rng=seed), head=Dense(HIDDEN, 1, rng=seed + 1))
    return model, Adam(model.params, LR)


def with_traces(layer, method, x, target, seed):
    """The prediction for each year, made before the year was learnt from."""
    model, optimizer = make(layer, seed)
    learner = Learner(model, mean_squared_error, optimizer, method=method, clip_norm=1.0)
    return np.array([learner.step(*pair).prediction[0, 0] for pair in zip(x, target, strict=True)])


def with_windows(layer, k1, k2, x, target, seed):
    """The same by truncated backpropagation: an update after every k1 years, that goes back k2."""
    model, optimizer = make(layer, seed)
    trainer = TBPTT(model, mean_squared_error, optimizer, k1=k1, k2=k2, clip_norm=1.0)
    found = []
    for start in range(0, len(x), k1):
        window = x[start : start + k1]
        found += model(window, trainer.state)[0].ravel().tolist()
        trainer.step(window, target[start : start + k1])
    return np.array(found)


def rmse(errors):
    """Root of the mean squared error."""
    return float(np.sqrt(np.mean(np.square(errors))))


def plot(path, years, errors):
    """Draw each way's error over the 30 years before."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="year", ylabel="RMSE of 30 years", title="Next year's sunspots, learnt on the way")
    for name, own in errors.items():
        running = np.sqrt(np.convolve(np.square(own), np.full(30, 1 / 30), "valid"))
        axes.plot(years[-len(running) :], running, label=name)
    figure.legend(loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=120)
    print(f"plot: {path}")


def main():
    """Learn in each way, compare."""
    parser = argparse.ArgumentParser(description="Follow a changing signal, learning while it runs.")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a plot (needs rnnfast[plot])")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    years, series = load()
    x, difference = series[:-1].reshape(-1, 1, 1), np.diff(series)
    target = difference.reshape(-1, 1, 1)
    ways = {
        "SRU, exact traces": lambda: with_traces(SRU, "rtrl", x, target, arguments.seed),
        "LSTM, SnAp-1": lambda: with_traces(LSTM, "snap1", x, target, arguments.seed),
        "LSTM, RFLO": lambda: with_traces(LSTM, "rflo", x, target, arguments.seed),
        f"LSTM, windows of {WINDOW}": lambda: with_windows(LSTM, WINDOW, WINDOW, x, target, arguments.seed),
        f"LSTM, {BACK} years back": lambda: with_windows(LSTM, 1, BACK, x, target, arguments.seed),
        "like this year": lambda: np.zeros(len(x)),
    }
    counted = years[1:] >= FIRST_COUNTED_YEAR
    errors = {}
    for name, way in ways.items():
        began = time.perf_counter()
        errors[name] = way() - difference
        each = (time.perf_counter() - began) / len(x)
        error = rmse(errors[name][counted])
        print(f"{name:>22}: RMSE {error:.3f} since {FIRST_COUNTED_YEAR}, {each * 1e6:5.0f} us a year")
    if arguments.plot is not None:
        plot(arguments.plot, years, errors)


if __name__ == "__main__":
    main()
