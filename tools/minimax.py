"""Derive the polynomial coefficients of csrc/simd/math.h: expm1(r) = r + r^2 Q(r) on |r| <= ln(2)/2.

A Remez exchange in mpmath, minimising the *relative* error of expm1, because tanh near zero keeps
relative accuracy only if expm1 does. Rejected: Taylor coefficients (one or two more terms for the same
error) and Sollya (the best tool for this, but no Python package carries it).

Run ``python tools/minimax.py`` (needs mpmath); it prints the arrays as they stand in math.h.
"""

from __future__ import annotations

import mpmath as mp

mp.mp.dps = 60
BOUND = mp.log(2) / 2 * mp.mpf("1.001")  # a little slack for the rounding of k


def remez(terms: int, rounds: int = 12) -> tuple[list[mp.mpf], mp.mpf]:
    """Coefficients q of Q(r) = sum q_i r^i with `terms` terms, and the largest relative error of expm1."""

    def error(q: list[mp.mpf], r: mp.mpf) -> mp.mpf:
        if abs(r) < mp.mpf(10) ** -20:
            return mp.mpf(0)
        return (r + r * r * mp.polyval(q[::-1], r)) / mp.expm1(r) - 1

    # The error vanishes at r = 0 by construction, so the nodes are chosen around it.
    nodes = [BOUND * mp.cos(mp.pi * (2 * i + 1) / (2 * (terms + 1))) for i in range(terms + 1)]
    nodes = [r if abs(r) > BOUND / 1000 else BOUND / 50 for r in nodes]
    q: list[mp.mpf] = []
    for _ in range(rounds):
        rows = mp.matrix(terms + 1, terms + 1)
        right = mp.matrix(terms + 1, 1)
        for i, r in enumerate(nodes):
            weight = 1 / mp.expm1(r)
            for j in range(terms):
                rows[i, j] = r ** (j + 2) * weight
            rows[i, terms] = (-1) ** i
            right[i] = 1 - r * weight
        solution = mp.lu_solve(rows, right)
        q = [solution[j] for j in range(terms)]
        grid = [BOUND * (mp.mpf(2 * i) / 4000 - 1) for i in range(4001)]
        values = [error(q, r) for r in grid]
        peaks = [
            i
            for i in range(4001)
            if (i == 0 or abs(values[i]) >= abs(values[i - 1])) and (i == 4000 or abs(values[i]) >= abs(values[i + 1]))
        ]
        alternating: list[int] = []
        for i in peaks:
            if alternating and mp.sign(values[i]) == mp.sign(values[alternating[-1]]):
                if abs(values[i]) > abs(values[alternating[-1]]):
                    alternating[-1] = i
            else:
                alternating.append(i)
        while len(alternating) > terms + 1:
            alternating.pop(0 if abs(values[alternating[0]]) < abs(values[alternating[-1]]) else -1)
        if len(alternating) < terms + 1:
            break
        nodes = [grid[i] for i in reversed(alternating)]
    return q, max(abs(error(q, r)) for r in (BOUND * (mp.mpf(2 * i) / 4000 - 1) for i in range(4001)))


def main() -> None:
    for name, terms, digits in (("float", 6, 10), ("double", 11, 20)):
        q, worst = remez(terms)
        print(f"// {name}: relative error of expm1 {mp.nstr(worst, 3)}")
        print(", ".join(mp.nstr(c, digits) for c in q))


if __name__ == "__main__":
    main()
