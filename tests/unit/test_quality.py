"""Ranking metrics equal those of trec_eval (by ir_measures); scores of all rankers equal plain loops."""

import ir_measures
import numpy as np
import pyarrow as pa
import pytest
from ir_measures import RR, R, nDCG
from profilestream.learn.factors.kernels import item_index, ranker_evaluation
from profilestream.learn.factors.kernels.als import AlsParams
from profilestream.learn.factors.kernels.item_index import RANKERS, ItemIndex, UserItems
from profilestream.learn.kernels import ranking_metrics


def test_metrics_equal_those_of_trec_eval() -> None:
    rng = np.random.default_rng(7)
    users, items = 40, 200
    scores = rng.permuted(np.tile(np.arange(items, dtype=float), (users, 1)), axis=1)
    is_target = rng.random((users, items)) < 0.03
    is_excluded = (rng.random((users, items)) < 0.1) & ~is_target
    sums = ranking_metrics.evaluate(scores, is_target, is_excluded, np.ones(items))
    evaluated = [user for user in range(users) if is_target[user].any()]
    qrels = [ir_measures.Qrel(str(u), str(i), 1) for u in evaluated for i in np.flatnonzero(is_target[u])]
    run = [
        ir_measures.ScoredDoc(str(u), str(i), scores[u, i]) for u in evaluated for i in np.flatnonzero(~is_excluded[u])
    ]
    expected = ir_measures.calc_aggregate([R @ 10, R @ 20, nDCG @ 10, RR(cutoff=20)], qrels, run)
    assert sums.users == len(evaluated)
    assert sums.recall_10 / sums.users == pytest.approx(expected[R @ 10])
    assert sums.recall_20 / sums.users == pytest.approx(expected[R @ 20])
    assert sums.ndcg_10 / sums.users == pytest.approx(expected[nDCG @ 10])
    assert sums.reciprocal_rank / sums.users == pytest.approx(expected[RR(cutoff=20)])


def test_coverage_and_novelty_of_a_small_example() -> None:
    scores = np.array([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0]])
    targets = np.array([[True, False, False], [False, False, False]])
    popularity = np.array([2.0, 1.0, 1.0])
    sums = ranking_metrics.evaluate(scores, targets, np.zeros((2, 3), bool), popularity)
    assert sums.users == 1  # the other user has no target
    assert sums.listed_items.tolist() == [True, True, True]
    assert sums.novelty == pytest.approx((1 + 2 + 2) / 3)


def random_items(items: int, k: int, rng: np.random.Generator) -> pa.Table:
    """Rows with vectors, counts, categories and neighbors."""
    rows = [
        {
            "item_id": f"i{n:03}", "vector": rng.normal(size=k).astype(np.float32).tobytes(),
            "decayed_weight": float(1 + rng.integers(9)), "popularity": float(rng.random() * 9),
            "latest_event": 0, "category": f"c{n % 3}", "neighbor_ids": [f"i{(n + 1) % items:03}", "unknown"],
            "neighbor_counts": [float(rng.random()), 1.0],
        }
        for n in range(items)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, item_index.SCHEMA)


def random_index(items: int, k: int, rng: np.random.Generator) -> ItemIndex:
    """Items with vectors, counts, categories and neighbors."""
    return ItemIndex.from_rows(random_items(items, k, rng), AlsParams(k=k))


@pytest.mark.parametrize("owned", [["i001", "i005", "unknown"], ["i000"], ["unknown"], []])
def test_an_index_for_some_items_of_users_scores_them_as_the_complete_index(owned: list[str]) -> None:
    rng = np.random.default_rng(5)
    params = AlsParams(k=3, neighbor_weight=0.5)
    rows = random_items(9, 3, rng)
    complete = ItemIndex.from_rows(rows, params)
    of_users = ItemIndex.from_rows(rows, params, np.array(owned, object))
    position = complete.positions(owned)
    item = position[position >= 0]
    user_items = UserItems(np.zeros(len(item), np.int64), item, np.ones(len(item)))
    expected = complete.neighbor_scores(1, user_items)
    assert (of_users.neighbor_scores(1, user_items) == expected).all()
    assert bool(expected.any()) == bool(len(item))
    assert len(of_users.neighbors) < len(complete.neighbors)


def test_users_in_chunks_give_the_sums_of_all_users_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    index, vectors = random_index(50, 4, rng), rng.normal(size=(30, 4))
    targets, owned = (np.argwhere(rng.random((30, 50)) < share) for share in (0.05, 0.1))
    user_items = UserItems(owned[:, 0], owned[:, 1], rng.random(len(owned)))
    params = AlsParams(k=4, neighbor_weight=0.5, category_weight=0.5)
    at_once = ranker_evaluation.evaluate_rankers(index, vectors, user_items, targets, params)
    monkeypatch.setattr(ranker_evaluation, "_MAX_CELLS", 50 * 7)
    in_chunks = ranker_evaluation.evaluate_rankers(index, vectors, user_items, targets, params)
    assert at_once.keys() == in_chunks.keys() == set(RANKERS)
    for ranker, sums in at_once.items():
        assert (in_chunks[ranker].listed_items == sums.listed_items).all()
        assert in_chunks[ranker].metrics() == {name: pytest.approx(pair) for name, pair in sums.metrics().items()}


def test_items_that_a_user_has_are_neither_targets_nor_ranked() -> None:
    rows = [
        {
            "item_id": item_id,
            "vector": vector.astype(np.float32).tobytes(),
            "decayed_weight": 1.0,
            "popularity": 1.0,
            "latest_event": 0,
            "neighbor_ids": [],
        }
        for item_id, vector in zip("ab", np.eye(2), strict=True)
    ]
    params = AlsParams(k=2, popularity_weight=0.0)
    index = ItemIndex.from_rows(pa.Table.from_pylist(rows, item_index.SCHEMA), params)
    targets = np.array([[0, 0], [0, 1]])
    user_items = UserItems(targets[:1, 0], targets[:1, 1], np.ones(1))
    sums = ranker_evaluation.evaluate_rankers(index, np.array([[1.0, 0.5]]), user_items, targets, params)["factors"]
    assert (sums.users, sums.recall_10, sums.reciprocal_rank) == (1, 1, 1)


def test_the_scores_of_every_ranker_equal_plain_loops() -> None:
    rng = np.random.default_rng(8)
    index, vectors = random_index(9, 3, rng), rng.normal(size=(2, 3))
    params = AlsParams(k=3, neighbor_weight=0.5, category_weight=0.3)
    owned = {0: {"i001": 2.0, "i005": 1.0}, 1: {}}
    triples = [
        (user, int(index.positions([item])[0]), weight)
        for user, items in owned.items()
        for item, weight in items.items()
    ]
    user_items = UserItems(*(np.array(column) for column in zip(*triples, strict=True)))
    scores = index.scores(vectors, user_items, params)
    similarities: dict[tuple[str, str], float] = {}
    for n, item in enumerate(index.item_ids):
        for position in range(index.starts[n], index.starts[n + 1]):
            pair = item, index.item_ids[index.neighbors[position]]
            similarities[pair] = similarities.get(pair, 0.0) + index.similarity[position]
    # Both directions have the same count, divided by the root of the weight of the item that the user has.
    one, two = (index.decayed_weights[index.positions([item])[0]] for item in ("i001", "i002"))
    assert similarities["i001", "i002"] * one**0.5 == pytest.approx(similarities["i002", "i001"] * two**0.5)
    assert similarities["i001", "i002"] > 0 and one != two
    max_log = max(np.log1p(index.popularity))
    for user, items in owned.items():
        for n, item in enumerate(index.item_ids):
            factors = float(index.vectors[n] @ vectors[user])
            popularity = float(np.log1p(index.popularity[n]) / max_log)
            neighbors = sum(similarities.get((other, item), 0.0) for other in items)
            same = sum(weight for other, weight in items.items() if int(other[1:]) % 3 == int(item[1:]) % 3)
            category = popularity * (same / sum(items.values()) if items else 0.0)
            expected = {
                "factors": factors, "popularity": popularity, "neighbors": neighbors, "category": category,
                "blend": factors + 0.15 * popularity + 0.5 * neighbors + 0.3 * category,
            }  # fmt: skip
            for ranker, score in expected.items():
                assert scores[ranker][user, n] == pytest.approx(score, rel=1e-6, abs=1e-7), (ranker, item)


def test_the_top_items_have_the_highest_scores_and_ties_are_in_order_of_id() -> None:
    scores = np.array([[1.0, 3.0, 3.0, 3.0, 0.0], [-np.inf, 2.0, -np.inf, -np.inf, 1.0]])
    assert ranking_metrics.top_items(scores, 2).tolist() == [[1, 2], [1, 4]]
    assert ranking_metrics.top_items(scores, 4).tolist() == [[1, 2, 3, 0], [1, 4, 0, 2]]
    assert ranking_metrics.top_items(scores, 9).tolist() == [[1, 2, 3, 0, 4], [1, 4, 0, 2, 3]]
