"""What `learn_segments` is held to: users one by one in plain loops, and sums as recounts of them."""

import numpy as np
from profilestream.learn.als import MICROS_A_DAY, Floats
from profilestream.learn.cluster_sums import Sums
from profilestream.learn.kmeans import Move, Params

DAY = MICROS_A_DAY
# A user's point, time and segment.
Kept = tuple[Floats, int, int]


def recount(kept: list[Kept], ids: list[int], now: int, params: Params) -> Sums:
    """The sums over users by segment."""
    d = len(kept[0][0])
    found = Sums.zero(len(ids), d)
    for point, at, segment in kept:
        place = ids.index(segment)
        weight = 1.0 if params.half_life_days is None else 2.0 ** (-(now - at) / DAY / params.half_life_days)
        found.users[place] += 1
        found.weight[place] += weight
        found.sums[place] += weight * point
        found.scatter[place] += weight * np.outer(point, point)
    return Sums(found.users, found.weight, found.sums, found.scatter, now)


def nearest(point: Floats, centers: dict[int, Floats]) -> int:
    """The segment whose center is nearest; of equal ones the first."""
    return min(
        centers, key=lambda segment: (sum((a - b) ** 2 for a, b in zip(point, centers[segment], strict=True)), segment)
    )


def learned(users: dict[str, Kept], rows: dict[str, tuple[Floats, int]], centers: dict[int, Floats]) -> dict[str, Kept]:
    """The users after a batch of one pass, before moves."""
    return users | {user: (point, at, nearest(point, centers)) for user, (point, at) in rows.items()}


def moved(users: dict[str, Kept], moves: tuple[Move, ...]) -> dict[str, Kept]:
    """The users after moves."""
    found = dict(users)
    for move in moves:
        for user, (point, at, segment) in found.items():
            if segment == move.parent:
                is_above = sum(a * b for a, b in zip(point, move.normal, strict=True)) >= move.cut
                segment = move.child if is_above == move.is_child_above else segment
            if segment == move.absorbed and move.into is not None:
                segment = move.into
            found[user] = (point, at, segment)
    return found


def cost(points: Floats) -> float:
    """Sum of squared distances to the mean."""
    return float(((points - points.mean(axis=0)) ** 2).sum())
