"""Forecast a real series: next year's sunspots from those of all years before.

A GRU reads the yearly sunspot numbers of 1700 to 2008 and says at each step how the next year will differ. It learns
from the years before 1930, in windows that begin anywhere; then it reads the whole series once, and its forecasts for
the years since 1930 are compared with two that cost nothing: next year is like this one, and next year is like the
year one cycle before it.

`sunspots.csv` lies beside this file. It is the yearly series of the National Geophysical Data Center, in the public
domain, as `statsmodels.datasets.sunspots` carries it.

    python examples/forecast.py --plot forecast.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from rnnfast import GRU, TBPTT, Dense, Model
from rnnfast.losses import mean_squared_error
from rnnfast.optim import AdamW

FIRST_TEST_YEAR = 1930
CYCLE = 11
WINDOW, ROWS, UPDATES, HIGHEST_LR = 64, 32, 150, 5e-3


def load():
    """Years and sunspot numbers."""
    table = np.loadtxt(Path(__file__).with_name("sunspots.csv"), delimiter=",", skiprows=1)
    return table[:, 0].astype(int), table[:, 1]


def train(series, rng):
    """A model that has learned how `series` goes on: from a value to the difference of the next one."""
    model = Model(rnn=GRU(1, 32, rng=rng), head=Dense(32, 1, rng=rng))
    optimizer = AdamW(model.params, HIGHEST_LR, weight_decay=0.1)
    trainer = TBPTT(model, mean_squared_error, optimizer, k1=WINDOW, clip_norm=1.0)
    for update in range(UPDATES):
        optimizer.lr = HIGHEST_LR * 0.5 * (1 + np.cos(np.pi * update / UPDATES))
        steps = np.arange(WINDOW)[:, None] + rng.integers(0, len(series) - WINDOW, ROWS)
        trainer.reset()  # the rows are other windows than before
        trainer.step(series[steps][..., None], (series[steps + 1] - series[steps])[..., None])
    return model


def forecast(model, series):
    """What the model expects after each value, from all values up to it."""
    difference, _ = model(series[:, None, None])
    return series + difference[:, 0, 0]


def rmse(prediction, actual):
    """Root of the mean squared error."""
    return float(np.sqrt(np.mean((prediction - actual) ** 2)))


def plot(path, years, actual, predictions):
    """Draw the test years."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="year", ylabel="sunspot number", title="Sunspots, forecast one year ahead")
    axes.plot(years, actual, "k.-", label="observed")
    for (name, prediction), style in zip(predictions.items(), ("C3-", "C0:", "C2:"), strict=True):
        axes.plot(years, prediction, style, label=f"{name}, RMSE {rmse(prediction, actual):.1f}")
    figure.legend(loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=120)
    print(f"plot: {path}")


def main():
    """Train, forecast, compare."""
    parser = argparse.ArgumentParser(description="Forecast next year's sunspots.")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a plot (needs rnnfast[plot])")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    years, numbers = load()
    test = np.flatnonzero(years >= FIRST_TEST_YEAR)
    roots = np.sqrt(numbers)  # whose scatter is about the same in strong and in weak cycles
    mean, deviation = roots[: test[0]].mean(), roots[: test[0]].std()
    series = ((roots - mean) / deviation).astype(np.float32)
    model = train(series[: test[0]], np.random.default_rng(arguments.seed))
    expected = np.maximum(forecast(model, series) * deviation + mean, 0) ** 2
    predictions = {
        "GRU": expected[test - 1],
        "like this year": numbers[test - 1],
        "like one cycle before": numbers[test - CYCLE],
    }
    for name, prediction in predictions.items():
        print(f"{name:>22}: RMSE {rmse(prediction, numbers[test]):5.1f} over {len(test)} years")
    if arguments.plot is not None:
        plot(arguments.plot, years[test], numbers[test], predictions)


if __name__ == "__main__":
    main()
