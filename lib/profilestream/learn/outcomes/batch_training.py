"""Fits batch models of outcomes with scikit-learn, and converts them to arrays (kernels/batch_model.py).

The parameters are those of docs/decisions/0051-batch-models.md. Amounts are divided by their mean, and those above the
.999 quantile are limited to it, as in the linear models.
"""

import warnings
from typing import Any

import numpy as np

from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.outcomes.kernels.batch_model import BatchModel, BoostedTrees, Perceptron, standardized
from profilestream.learn.outcomes.kernels.model_comparison import row_losses
from profilestream.learn.outcomes.kernels.outcome_model import Loss

_MIN_LABELS = 10  # of each class; of an amount: above 0
_CAPPED_SHARE = 0.001


class Unfit(Exception):
    """There is no model; the text is the reason, for `batch_models.problem`."""


def library() -> str:
    """Name and version of the library that fits the models."""
    import sklearn  # type: ignore[import-untyped]

    return f"scikit-learn {sklearn.__version__}"


def fit(kind: str, loss: Loss, values: Floats, x: Floats, labels: Floats, *, min_rows: int, seed: int) -> BatchModel:
    """A model of this kind.

    Args:
        values: features of which NaN is null, (m, features).
        x: columns of the linear models, (m, c).
        labels: finite, (m,).

    Raises:
        Unfit: too few rows or labels, no feature has a value, or the predictions of its own rows are bad.
    """
    # Import before `threadpool_limits`, which limits only libraries that are loaded.
    import sklearn.ensemble  # type: ignore[import-untyped]  # noqa: F401
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    if len(labels) < min_rows:
        raise Unfit(f"{len(labels)} rows; {min_rows} are needed (learn.batch_models.min_rows)")
    if min((labels > 0).sum(), _MIN_LABELS if loss == "poisson" else (labels <= 0).sum()) < _MIN_LABELS:
        raise Unfit(f"fewer than {_MIN_LABELS} labels {'above 0' if loss == 'poisson' else 'of a class'}")
    if not np.isfinite(values).any():
        raise Unfit("all features are null in all rows")
    unit, targets = 1.0, (labels > 0).astype(float)
    if loss == "poisson":
        amounts = np.maximum(labels, 0.0)
        unit = float(amounts.mean())
        targets = np.minimum(amounts, np.quantile(amounts, 1 - _CAPPED_SHARE)) / unit
    fit_kind = {"boosting": _boosting, "mlp": _perceptron}[kind]
    # With several threads, which wait for each other while Spark uses the processors, a fit is up to 50 times slower.
    with threadpool_limits(1):
        model, raw_scores = fit_kind(loss, unit, values, x, targets, seed)
    _check(model, values, x, labels, raw_scores)
    return model


def _check(model: BatchModel, values: Floats, x: Floats, labels: Floats, raw_scores: Floats) -> None:
    """Compare a model with its estimator, and with the mean label, on the rows that it has learned."""
    scores = model.raw_scores(values, x)
    if not np.isfinite(scores).all():
        raise Unfit("predictions are not finite")
    if not np.allclose(scores, raw_scores, rtol=1e-6, atol=1e-6):
        raise Unfit(f"the arrays of the model and {library()} have different predictions")
    losses = row_losses(model.loss, labels, model.predictions(model.etas(values, x)))
    mean = np.maximum(labels, 0.0).mean() if model.loss == "poisson" else (labels > 0).mean()
    if not losses.mean() < row_losses(model.loss, labels, np.full(len(labels), mean)).mean():
        raise Unfit("not better than the mean label on the rows that it has learned")


def boosting_estimator(loss: Loss, rows: int, seed: int) -> Any:
    """A gradient boosting estimator of scikit-learn, not fitted, for this number of rows."""
    # Here, because the import takes 1 s.
    from sklearn.ensemble import (
        HistGradientBoostingClassifier,
        HistGradientBoostingRegressor,
    )

    parameters: dict[str, Any] = {
        "max_iter": 120, "max_leaf_nodes": 6, "min_samples_leaf": min(300, max(rows // 10, 1)), "learning_rate": 0.05,
        "l2_regularization": 10, "early_stopping": False, "random_state": seed,
    }  # fmt: skip
    if loss == "poisson":
        return HistGradientBoostingRegressor(loss="poisson", **parameters)
    return HistGradientBoostingClassifier(**parameters)


def perceptron_estimator(loss: Loss, seed: int) -> Any:
    """A neural network of scikit-learn with one hidden layer, not fitted."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor  # type: ignore[import-untyped]

    parameters: dict[str, Any] = {
        "hidden_layer_sizes": (32,), "alpha": 1e-3, "max_iter": 60, "early_stopping": True, "n_iter_no_change": 5,
        "random_state": seed,
    }  # fmt: skip
    return MLPRegressor(loss="poisson", **parameters) if loss == "poisson" else MLPClassifier(**parameters)


def _boosting(
    loss: Loss, unit: float, values: Floats, x: Floats, targets: Floats, seed: int
) -> tuple[BatchModel, Floats]:
    """The model, and the raw scores of the estimator."""
    # scikit-learn 1.9 fails if a column has no value. A constant column divides no rows.
    values = np.where(np.isfinite(values).any(axis=0), values, 0.0)
    estimator = boosting_estimator(loss, len(targets), seed).fit(values, targets)
    trees = [tree.nodes for (tree,) in estimator._predictors]
    nodes = np.concatenate(trees)
    model = BoostedTrees(
        loss=loss,
        label_unit=unit,
        baseline=float(estimator._baseline_prediction.item()),
        sizes=np.array([len(tree) for tree in trees]),
        features=nodes["feature_idx"].astype(np.int64),
        thresholds=nodes["num_threshold"].astype(float),
        null_is_left=nodes["missing_go_to_left"].astype(bool),
        left=np.where(nodes["is_leaf"], 0, nodes["left"]).astype(np.int64),
        right=np.where(nodes["is_leaf"], 0, nodes["right"]).astype(np.int64),
        leaf_values=nodes["value"].astype(float),
    )
    if loss == "poisson":
        return model, np.log(estimator.predict(values))
    return model, np.asarray(estimator.decision_function(values))


def _perceptron(
    loss: Loss, unit: float, values: Floats, x: Floats, targets: Floats, seed: int
) -> tuple[BatchModel, Floats]:
    """The model, and the raw scores of the estimator."""
    means, scales = x.mean(axis=0), x.std(axis=0)
    inputs = standardized(x, means, scales)
    estimator = perceptron_estimator(loss, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the number of passes may be too small for convergence
        estimator.fit(inputs, targets)
    (hidden, output), (hidden_bias, output_bias) = estimator.coefs_, estimator.intercepts_
    model = Perceptron(
        loss, unit, means, scales, hidden, hidden_bias, np.ascontiguousarray(output[:, 0]), float(output_bias[0])
    )
    if loss == "poisson":
        return model, np.log(estimator.predict(inputs))
    log_probabilities = estimator.predict_log_proba(inputs)
    return model, np.asarray(log_probabilities[:, 1] - log_probabilities[:, 0])
