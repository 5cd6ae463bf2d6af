"""Short sketches of vectors whose products are never less than the cosines: the filter of an exact join.

A unit vector x is cut at k dimensions of an orthonormal basis V: p = Vᵀx and the length of the rest, r = |x − Vp|. By
Cauchy and Schwarz x·y ≤ p·p' + r·r', so the product of the sketches (p, r) is an upper bound of the cosine, whatever
the vectors are. The basis is that of the largest eigenvalues, from a sample; k is the cheapest on that sample. Neither
choice can lose a pair, only let more through to be checked again.

Rounding is bounded from the data: with s the sketch, t its rounded form and e = |s − t| (measured, row by row),
s·s' ≤ t·t' + |s|·e' + e·|t'|. A sum of K products in fp32 errs by at most γ_K |t| |t'|, γ_K = K u / (1 − K u),
u = 2⁻²⁴, in any order (Higham: Accuracy and Stability of Numerical Algorithms, section 3.1); the result's own rounding
by at most one unit in its last place. `Sketch.cut` is the threshold less all of these.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

CHUNK = 8192
SAMPLE = 1024
SLACK = 1e-9
"""Covers the rounding of float64 and how far the basis is from orthonormal, which is about 1e-15."""
WIDTHS = (64, 96, 128, 192, 256, 384, 512)
"""Lengths of a sketch that are tried: multiples of a matrix unit's 32."""
RECHECK_S = 3e-6
"""Seconds to check one pair again; with the speed of products it says which width is cheapest."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sketch:
    """Rounded sketches of n vectors, shape (n, width), and how far each is from its exact sketch."""

    rows: torch.Tensor
    errors: Floats

    def cut(self, threshold: float, left: slice | Any, right: slice | Any) -> float:
        """What the computed product of any two rows of `left` and `right` reaches if their cosine is ≥ threshold."""
        longest = 1 + 1e-2  # |t| ≤ |s| + e, and e < 2⁻⁷ even for bf16
        width = self.rows.shape[1]
        unit = 2.0**-24
        summing = width * unit / (1 - width * unit) * longest**2
        wrong = (float(self.errors[left].max()) + float(self.errors[right].max())) * longest
        last_place = 2.0**-8 if self.rows.dtype == torch.bfloat16 else 2.0**-23
        return (threshold - wrong - summing - SLACK) * (1 - last_place)


@dataclass(frozen=True)
class Basis:
    """Where sketches are cut: orthonormal columns, shape (d, k); None keeps all dimensions and has no rest."""

    columns: Floats | None
    low_precision: bool
    """sketches are bf16, else fp32"""


def unit_rows(vectors: npt.NDArray[Any]) -> Floats:
    """Rows of length 1 in float64; a row that is zero or not finite becomes zero, and so is like nothing."""
    rows = widened(vectors)
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    good = np.isfinite(lengths) & (lengths > 0)
    return np.where(good[:, None], rows, 0.0) / np.where(good, lengths, 1.0)[:, None]


def widened(rows: npt.NDArray[Any]) -> Floats:
    """The rows in float64; by torch, since NumPy's own widening of f16 is slow."""
    rows = np.require(rows, requirements=["C", "W"])
    return torch.from_numpy(rows).double().numpy()


def choose_basis(vectors: npt.NDArray[Any], threshold: float, low_precision: bool) -> Basis:
    """The cheapest width for this data; all dimensions where there are few rows or nothing is gained."""
    count, dimensions = vectors.shape
    if count <= 2 * SAMPLE:
        return Basis(None, low_precision)
    sample = unit_rows(vectors[np.linspace(0, count - 1, 8 * SAMPLE).astype(np.int64)])
    axes = torch.linalg.eigh(torch.from_numpy(sample.T @ sample))[1].numpy()[:, ::-1]  # rising eigenvalues
    turned = (sample[:: len(sample) // SAMPLE] @ axes).astype(np.float32)
    cut = threshold - (0.01 if low_precision else 1e-4)
    best, cost = None, product_seconds(low_precision) * dimensions
    for width in WIDTHS:
        if width >= dimensions:
            break
        short = turned[:, : width - 1]
        rest = np.sqrt(np.maximum(0, 1 - np.einsum("ij,ij->i", short, short)))
        through = short @ short.T + np.outer(rest, rest) >= cut
        rate = (int(through.sum()) - len(through)) / through.size
        seconds = product_seconds(low_precision) * (width + 16) + max(rate, 0) * RECHECK_S
        if seconds < cost:
            best, cost = width, seconds
    return Basis(np.ascontiguousarray(axes[:, : best - 1]) if best else None, low_precision)


def make_sketch(vectors: npt.NDArray[Any], basis: Basis, device: torch.device, skip: npt.NDArray[np.bool_]) -> Sketch:
    """The sketches of all rows, chunk by chunk; memory is 2 bytes (bf16) or 4 a dimension and row.

    Those of `skip` are zero, which reaches no cut.
    """
    width = vectors.shape[1] if basis.columns is None else basis.columns.shape[1] + 1
    kind = torch.bfloat16 if basis.low_precision else torch.float32
    rows = torch.empty((len(vectors), width), dtype=kind, device=device)
    errors = np.empty(len(vectors))
    for start in range(0, len(vectors), CHUNK):
        exact = unit_rows(vectors[start : start + CHUNK])
        exact[skip[start : start + CHUNK]] = 0
        if basis.columns is not None:
            short = exact @ basis.columns
            some = np.any(exact != 0, axis=1)
            rest = np.sqrt(np.maximum(0, 1 - np.einsum("ij,ij->i", short, short)) + SLACK) * some
            exact = np.concatenate([short, rest[:, None]], axis=1)
        rounded = torch.from_numpy(exact).to(kind)
        rows[start : start + CHUNK] = rounded
        wrong = exact - rounded.to(torch.float64).numpy()
        errors[start : start + CHUNK] = np.sqrt(np.einsum("ij,ij->i", wrong, wrong)) * (1 + SLACK)
    return Sketch(rows, errors)


def low_precision_pays(device: torch.device) -> bool:
    """Whether bf16 products are faster here than fp32 ones: with AMX, AVX512-BF16 or a GPU they are."""
    return device.type == "cuda" or product_seconds(True) < 0.7 * product_seconds(False)


@cache
def product_seconds(low_precision: bool) -> float:
    """Measured seconds of a product per pair and dimension on this CPU; decides how fast, never what is found."""
    one = torch.ones((1024, 128), dtype=torch.bfloat16 if low_precision else torch.float32)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        torch.mm(one, one.T)
        seconds.append(time.perf_counter() - start)
    return min(seconds) / (1024 * 1024 * 128)
