"""Derive the polynomial coefficients of csrc/simd/math.h and csrc/simd/functions.h.

A Remez exchange in mpmath, minimising the *relative* error of the function itself: results near zero keep their
relative accuracy only so (tanh goes through expm1, softplus through log1p). Rejected: Taylor coefficients (one or two
more terms for the same error) and Sollya (the best tool for this, but no Python package carries it).

Run ``python tools/minimax.py`` (needs mpmath); it prints the arrays as they stand in the two headers, and the constants
beside them: pi/2 in parts and the binary digits of 2/pi.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mpmath as mp

mp.mp.dps = 60
SLACK = mp.mpf("1.001")  # of the bounds, for the rounding of the multiples that are subtracted
INTERVALS = 4000


@dataclass(frozen=True)
class Fit:
    """``exact(r) = start(r) + sum q_i basis(r, i)``, for ``low <= r <= high``. Both sides vanish alike at r = 0."""

    formula: str
    exact: Callable[[mp.mpf], mp.mpf]
    start: Callable[[mp.mpf], mp.mpf]
    basis: Callable[[mp.mpf, int], mp.mpf]
    low: mp.mpf
    high: mp.mpf
    terms: dict[str, int]  # of each type

    def error(self, q: list[mp.mpf], r: mp.mpf) -> mp.mpf:
        """The relative error of the sum."""
        if abs(r) < mp.mpf(10) ** -20:
            return mp.mpf(0)
        return (self.start(r) + sum(c * self.basis(r, i) for i, c in enumerate(q))) / self.exact(r) - 1


def log_of_ratio(s: mp.mpf) -> mp.mpf:
    """log(m), where s = (m - 1) / (m + 1)."""
    return mp.log1p(s) - mp.log1p(-s)


LN2_HALF, PI_4, ROOT = mp.log(2) / 2 * SLACK, mp.pi / 4 * SLACK, mp.sqrt(2) * SLACK
FITS = {
    "q": Fit(
        "expm1(r) = r + r^2 Q(r)",
        *(mp.expm1, lambda r: r, lambda r, i: r ** (i + 2), -LN2_HALF, LN2_HALF),
        {"float": 6, "double": 11},
    ),
    "log": Fit(
        "log((1 + s) / (1 - s)) = 2 s + s^3 L(s^2)",
        *(log_of_ratio, lambda s: 2 * s, lambda s, i: s ** (2 * i + 3), mp.mpf(0), (ROOT - 1) / (ROOT + 1)),
        {"float": 3, "double": 7},
    ),
    "sin": Fit(
        "sin(r) = r + r^3 S(r^2)",
        *(mp.sin, lambda r: r, lambda r, i: r ** (2 * i + 3), mp.mpf(0), PI_4),
        {"float": 3, "double": 6},
    ),
    "cos": Fit(
        "cos(r) = 1 - r^2 / 2 + r^4 C(r^2)",
        *(mp.cos, lambda r: 1 - r * r / 2, lambda r, i: r ** (2 * i + 4), mp.mpf(0), PI_4),
        {"float": 3, "double": 6},
    ),
}


def alternation(values: list[mp.mpf], count: int) -> list[int]:
    """Where the error has its extremes, of alternating signs: `count` of them, or fewer if there aren't as many."""
    last = len(values) - 1
    found: list[int] = []
    for i, value in enumerate(values):
        if (i > 0 and abs(value) < abs(values[i - 1])) or (i < last and abs(value) < abs(values[i + 1])) or value == 0:
            continue
        if not found or mp.sign(value) != mp.sign(values[found[-1]]):
            found.append(i)
        elif abs(value) > abs(values[found[-1]]):
            found[-1] = i
    while len(found) > count:
        found.pop(0 if abs(values[found[0]]) < abs(values[found[-1]]) else -1)
    return found


def remez(fit: Fit, terms: int, rounds: int = 12) -> tuple[list[mp.mpf], mp.mpf]:
    """The coefficients q with `terms` terms, and the largest relative error."""
    middle, half = (fit.high + fit.low) / 2, (fit.high - fit.low) / 2
    # The error vanishes at r = 0 by construction, so the nodes are chosen around it.
    nodes = [middle + half * mp.cos(mp.pi * (2 * i + 1) / (2 * (terms + 1))) for i in range(terms + 1)]
    nodes = [r if abs(r) > half / 1000 else half / 50 for r in nodes]
    grid = [middle + half * (mp.mpf(2 * i) / INTERVALS - 1) for i in range(INTERVALS + 1)]
    q: list[mp.mpf] = []
    for _ in range(rounds):
        rows = mp.matrix(terms + 1, terms + 1)
        right = mp.matrix(terms + 1, 1)
        for i, r in enumerate(nodes):
            weight = 1 / fit.exact(r)
            for j in range(terms):
                rows[i, j] = fit.basis(r, j) * weight
            rows[i, terms] = (-1) ** i
            right[i] = 1 - fit.start(r) * weight
        solution = mp.lu_solve(rows, right)
        q = [solution[j] for j in range(terms)]
        extremes = alternation([fit.error(q, r) for r in grid], terms + 1)
        if len(extremes) < terms + 1:
            break
        nodes = [grid[i] for i in reversed(extremes)]
    return q, max(abs(fit.error(q, r)) for r in grid)


def hexadecimal(x: mp.mpf) -> str:
    """A number of at most 53 bits, as C++ writes it."""
    mantissa, exponent = float(x).hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{int(exponent)}"


def parts(x: mp.mpf, lengths: list[int]) -> list[mp.mpf]:
    """`x` as a sum of numbers of so many bits: each cut off, the last rounded."""
    found = []
    for i, bits in enumerate(lengths):
        unit = mp.mpf(2) ** (mp.floor(mp.log(x, 2)) - bits + 1)
        found.append((mp.nint if i == len(lengths) - 1 else mp.floor)(x / unit) * unit)
        x -= found[-1]
    return found


def digits_of_two_over_pi(words: int) -> list[str]:
    """Its binary digits behind the point, 32 in a word, after two words of zeros."""
    with mp.workprec(32 * words + 64):
        digits = int(mp.floor(mp.ldexp(2 / mp.pi, 32 * (words - 2))))
    return [f"0x{digits >> 32 * (words - 1 - i) & 0xFFFFFFFF:08x}" for i in range(words)]


def main() -> None:
    for name, fit in FITS.items():
        for kind, digits in (("float", 10), ("double", 20)):
            q, worst = remez(fit, fit.terms[kind])
            print(f"// {name}, {kind}: {fit.formula}, relative error {mp.nstr(worst, 3)}")
            print(", ".join(mp.nstr(c, digits) for c in q))
    for kind, lengths in (("float", [11, 11, 11, 24]), ("double", [33, 33, 33, 53])):
        print(f"// pi/2 in parts, {kind}")
        print(", ".join(hexadecimal(part) for part in parts(mp.pi / 2, lengths)))
    print("// 2/pi")
    print(", ".join(digits_of_two_over_pi(40)))


if __name__ == "__main__":
    main()
