"""Classify images read as sequences: scikit-learn's digits, row by row.

An image is 8 steps of 8 pixels. A bidirectional GRU reads it, and the loss looks at the last step alone (a mask
leaves out the others), where both directions have something to say: the forward one has seen the whole image, the
backward one the last row. A quarter of the images is held out.

    python examples/digits.py --plot digits.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from rnnfast import GRU, Dense, Model
from rnnfast.losses import softmax_cross_entropy
from rnnfast.optim import Adam, clip_grad_norm

EPOCHS, ROWS, HIGHEST_LR = 20, 32, 5e-3


def load(seed):
    """Training images, held-out images `[T, B, I]`, and their labels `[B]`."""
    images, labels = load_digits(return_X_y=True)
    sequences = (images.reshape(-1, 8, 8) / 16).astype(np.float32)
    train, test, train_labels, test_labels = train_test_split(sequences, labels, stratify=labels, random_state=seed)
    return train.swapaxes(0, 1), test.swapaxes(0, 1), train_labels, test_labels


def update(model, optimizer, x, labels, tape):
    """One update on a batch; the tape's memory serves the next one."""
    logits, _, tape = model.forward(x, tape=tape)
    at_the_end = np.zeros(logits.shape[:2], bool)
    at_the_end[-1] = True
    targets = np.broadcast_to(labels, logits.shape[:2])
    _, dlogits = softmax_cross_entropy(logits, targets, mask=at_the_end)
    gradients = model.backward(tape, dlogits, input_gradient=False).params
    clip_grad_norm(gradients, 1.0)
    optimizer.step(gradients)
    return tape


def classify(model, x):
    """The likeliest digit of each image."""
    return model(x)[0][-1].argmax(axis=-1)


def train(model, data, rng):
    """The held-out accuracy after each epoch."""
    x, test, labels, test_labels = data
    optimizer, tape = Adam(model.params, HIGHEST_LR), None
    accuracies = []
    for epoch in range(EPOCHS):
        optimizer.lr = HIGHEST_LR * (1 - epoch / EPOCHS)
        order = rng.permutation(len(labels))
        for rows in np.split(order, range(ROWS, len(order), ROWS)):
            tape = update(model, optimizer, x[:, rows], labels[rows], tape)
        accuracies.append(float(np.mean(classify(model, test) == test_labels)))
    return accuracies


def plot(path, accuracies, images, labels, answers):
    """Draw the accuracy by epoch, and the images that were taken for others."""
    from matplotlib.figure import Figure

    wrong = np.flatnonzero(answers != labels)[:8]
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subfigures(1, 2)
    axes = left.add_subplot(
        xlabel="epoch", ylabel="accuracy, held out", title=f"Digits row by row: {accuracies[-1]:.1%}"
    )
    axes.plot(range(1, len(accuracies) + 1), accuracies, ".-")
    right.suptitle("taken for others")
    for axes, image in zip(right.subplots(2, 4).flat, wrong, strict=False):
        axes.imshow(images[:, image], cmap="gray_r")
        axes.set_title(f"{labels[image]} as {answers[image]}", fontsize=9)
    for axes in right.axes:
        axes.set_axis_off()
    figure.savefig(path, dpi=120)
    print(f"plot: {path}")


def main():
    """Train and classify."""
    parser = argparse.ArgumentParser(description="Classify digits row by row.")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a plot (needs rnnfast[plot])")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    rng = np.random.default_rng(arguments.seed)
    model = Model(rnn=GRU(8, 64, bidirectional=True, rng=rng), head=Dense(128, 10, rng=rng))
    data = load(arguments.seed)
    accuracies = train(model, data, rng)
    print(f"accuracy: {accuracies[-1]:.4f} of {len(data[3])} held-out images")
    if arguments.plot is not None:
        plot(arguments.plot, accuracies, data[1], data[3], classify(model, data[1]))


if __name__ == "__main__":
    main()
