"""Batch models of outcomes as arrays: boosted trees, and a network with one hidden layer. Shapes: m rows, c columns.

They are fitted by batch_training.py, and scored here without scikit-learn.
"""

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from profilestream.learn.kernels.arrays import Bools, Floats, Longs
from profilestream.learn.outcomes.kernels.outcome_model import MAX_ETA, Loss

_MAX_INPUT = 5.0


@dataclass(frozen=True)
class BatchModel(ABC):
    """A fitted model.

    Args:
        loss: of the outcome.
        label_unit: Poisson: the mean label, in which labels are measured; else 1.
    """

    loss: Loss
    label_unit: float

    @abstractmethod
    def raw_scores(self, values: Floats, x: Floats) -> Floats:
        """Logits, or logarithms of means in units of the label, (m,)."""

    def etas(self, values: Floats, x: Floats) -> Floats:
        """The raw scores, limited as those of the linear models, (m,).

        Args:
            values: features of which NaN is null, (m, features).
            x: columns of the linear models, (m, c).
        """
        return self.raw_scores(values, x).clip(-MAX_ETA, MAX_ETA)

    def predictions(self, eta: Floats) -> Floats:
        """Probabilities, or means of a Poisson label in its own unit, (m,)."""
        return np.asarray(np.exp(eta) * self.label_unit if self.loss == "poisson" else 1 / (1 + np.exp(-eta)))

    def to_bytes(self) -> bytes:
        """All fields as a compressed .npz file."""
        file = io.BytesIO()
        arrays: dict[str, Any] = {each.name: np.asarray(getattr(self, each.name)) for each in fields(self)}
        np.savez_compressed(file, **arrays)
        return file.getvalue()


@dataclass(frozen=True)
class BoostedTrees(BatchModel):
    """A sum of binary trees.

    Args:
        baseline: raw score to which those of the trees are added.
        sizes: number of nodes of each tree; the other arrays have all nodes, tree after tree, parents first.
        features: the position of the feature by which a node divides its rows.
        thresholds: rows with at most this value are at the left.
        null_is_left: whether rows without a value are at the left.
        left, right: numbers of the children within the tree; 0 in a leaf.
        leaf_values: raw score that a leaf adds.
    """

    baseline: float
    sizes: Longs
    features: Longs
    thresholds: Floats
    null_is_left: Bools
    left: Longs
    right: Longs
    leaf_values: Floats

    def raw_scores(self, values: Floats, x: Floats) -> Floats:
        columns, scores = np.ascontiguousarray(values.T), np.full(len(values), self.baseline)
        for end, size in zip(np.cumsum(self.sizes), self.sizes, strict=True):
            scores += self._tree_scores(columns, end - size, size)
        return scores

    def _tree_scores(self, columns: Floats, begin: int, size: int) -> Floats:
        """From the last node to the root, so that both children of a node have their scores before it."""
        scores: list[Any] = self.leaf_values[begin : begin + size].tolist()
        for number in reversed(range(size)):
            node = begin + number
            if self.left[node]:
                column = columns[self.features[node]]
                is_left = column <= self.thresholds[node]
                if self.null_is_left[node]:
                    is_left |= np.isnan(column)
                scores[number] = np.where(is_left, scores[self.left[node]], scores[self.right[node]])
        return np.asarray(scores[0])


@dataclass(frozen=True)
class Perceptron(BatchModel):
    """A network with one hidden layer of rectified linear units (h of them).

    Args:
        means, scales: of the columns, (c,); scale 0: the column is not used.
        hidden, hidden_bias: (c, h) and (h,).
        output, output_bias: (h,) and a number.
    """

    means: Floats
    scales: Floats
    hidden: Floats
    hidden_bias: Floats
    output: Floats
    output_bias: float

    def raw_scores(self, values: Floats, x: Floats) -> Floats:
        inputs = standardized(x, self.means, self.scales)
        return np.asarray(np.maximum(inputs @ self.hidden + self.hidden_bias, 0.0) @ self.output + self.output_bias)


def standardized(x: Floats, means: Floats, scales: Floats) -> Floats:
    """Columns in standard deviations, at most 5 from the mean; 0 where the scale is 0."""
    return np.asarray(((x - means) / np.where(scales > 0, scales, np.inf)).clip(-_MAX_INPUT, _MAX_INPUT))


MODELS: Mapping[str, type[BatchModel]] = {"boosting": BoostedTrees, "mlp": Perceptron}


def model_of(kind: str, data: bytes) -> BatchModel:
    """The model from `to_bytes`. The file contains numbers and texts only; loading it runs no code.

    Raises:
        KeyError: an array is missing.
        ValueError: the file is not one of numpy, or contains objects.
    """
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        values = {each.name: arrays[each.name] for each in fields(MODELS[kind])}
    return MODELS[kind](**{name: value if value.ndim else value.item() for name, value in values.items()})
