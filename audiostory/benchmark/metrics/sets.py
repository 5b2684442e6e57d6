"""What the metrics that compare two sets of vectors ask of them, and warnings when sets differ in size or are small."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Shaped


def as_sets(
    generated: Shaped[np.ndarray, "G D"], reference: Shaped[np.ndarray, "R D"]
) -> tuple[Float[np.ndarray, "G D"], Float[np.ndarray, "R D"]]:
    """Both in double precision: G and R vectors of D features.

    ValueError for fewer than 2 vectors on a side, vectors of different width, and features that are not finite.
    """
    sets = {"generated": np.asarray(generated, np.float64), "reference": np.asarray(reference, np.float64)}
    for side, features in sets.items():
        if features.ndim != 2:
            raise ValueError(f"the {side} features have shape {list(features.shape)}; expected [vectors, features]")
        if len(features) < 2:
            raise ValueError(
                f"{len(features)} {side} vectors have no spread to compare; give more recordings, or longer ones"
            )
        if not np.isfinite(features).all():
            row = int(np.argmin(np.isfinite(features).all(1)))
            raise ValueError(
                f"the {side} vector {row} holds features that are not finite; "
                "look at the recording it was made of, and at the network's weights"
            )
    widths = {side: features.shape[1] for side, features in sets.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"the vectors differ in width ({widths}); embed both sides with the same network")
    return sets["generated"], sets["reference"]


def unequal_numbers(generated: int, reference: int, what: str) -> str | None:
    """A warning for the report when the sides do not have as many of `what` (recordings, vectors, pairs); else None.

    Distances between samples fall with their size, and inception scores rise: only figures at equal numbers compare.
    """
    if generated == reference:
        return None
    return (
        f"unequal numbers: {generated} {what} generated, {reference} in the reference. Fréchet distances and inception "
        "scores depend on the number; compare at equal numbers, or by the kernel distance"
    )


def few_vectors(generated: int, reference: int, width: int, what: str) -> str | None:
    """A warning for the report when a side has no more vectors than they have features; else None. Covariances are then
    singular, and the Fréchet distance `what` of two samples of one source is far from 0."""
    if (fewest := min(generated, reference)) > width:
        return None
    return f"{what} is mostly bias: {fewest} vectors of {width} features; compare by the kernel distance, or score more"
