"""Metrics of a ranking agree with trec_eval (by ir_measures), and count what they say they count."""

import ir_measures
import numpy as np
import pyarrow as pa
import pytest
from ir_measures import RR, R, nDCG
from profilestream.learn import item_index, ranking_metrics
from profilestream.learn.als import Params
from profilestream.learn.item_index import RANKERS, ItemIndex, Liked
from profilestream.learn.ranking_metrics import Sums


def test_metrics_are_those_of_trec_eval() -> None:
    dice = np.random.default_rng(7)
    users, items = 40, 200
    scores = dice.permuted(np.tile(np.arange(items, dtype=float), (users, 1)), axis=1)
    is_target = dice.random((users, items)) < 0.03
    is_seen = (dice.random((users, items)) < 0.1) & ~is_target
    got = ranking_metrics.judge(scores, is_target, is_seen, np.ones(items))
    asked = [user for user in range(users) if is_target[user].any()]
    qrels = [ir_measures.Qrel(str(u), str(i), 1) for u in asked for i in np.flatnonzero(is_target[u])]
    run = [ir_measures.ScoredDoc(str(u), str(i), scores[u, i]) for u in asked for i in np.flatnonzero(~is_seen[u])]
    said = ir_measures.calc_aggregate([R @ 10, R @ 20, nDCG @ 10, RR(cutoff=20)], qrels, run)
    assert got.users == len(asked)
    assert got.recall_10 / got.users == pytest.approx(said[R @ 10])
    assert got.recall_20 / got.users == pytest.approx(said[R @ 20])
    assert got.ndcg_10 / got.users == pytest.approx(said[nDCG @ 10])
    assert got.reciprocal_rank / got.users == pytest.approx(said[RR(cutoff=20)])


def test_coverage_and_novelty_of_a_ranking_by_hand() -> None:
    scores = np.array([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0]])
    targets = np.array([[True, False, False], [False, False, False]])
    popular = np.array([2.0, 1.0, 1.0])
    got = ranking_metrics.judge(scores, targets, np.zeros((2, 3), bool), popular)
    assert got.users == 1  # the other one has no target
    assert got.items.tolist() == [True, True, True]
    assert got.novelty == pytest.approx((1 + 2 + 2) / 3)


def shop(items: int, k: int, dice: np.random.Generator) -> ItemIndex:
    """Items with vectors, counts, categories and neighbors."""
    return ItemIndex.of(
        pa.Table.from_pylist(
            [
                {
                    "key": f"i{n:03}", "vector": dice.normal(size=k).astype(np.float32).tobytes(),
                    "counted": float(1 + dice.integers(9)), "popular": float(dice.random() * 9), "newest": 0,
                    "category": f"c{n % 3}", "others": [f"i{(n + 1) % items:03}", "gone"],
                    "weights": [float(dice.random()), 1.0],
                }
                for n in range(items)
            ],
            item_index.SCHEMA,
        ),
        Params(k=k),
    )  # fmt: skip


def test_users_in_parts_give_what_all_at_once_give(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = np.random.default_rng(3)
    items, p = shop(50, 4, dice), dice.normal(size=(30, 4))
    target, seen = (np.argwhere(dice.random((30, 50)) < share) for share in (0.05, 0.1))
    liked = Liked(seen[:, 0], seen[:, 1], dice.random(len(seen)))
    made = Params(k=4, neighbor_share=0.5, category_share=0.5)
    whole = ranking_metrics.judge_all(items, p, liked, target, made)
    monkeypatch.setattr(ranking_metrics, "_CELLS", 50 * 7)
    parts = ranking_metrics.judge_all(items, p, liked, target, made)
    assert whole.keys() == parts.keys() == set(RANKERS)
    for name, sums in whole.items():
        assert parts[name].as_bytes()[1] == sums.as_bytes()[1]
        np.testing.assert_allclose(np.frombuffer(parts[name].as_bytes()[0]), np.frombuffer(sums.as_bytes()[0]))
        assert Sums.of_bytes(*sums.as_bytes()).recall_20 == sums.recall_20


def test_what_is_seen_is_neither_a_target_nor_ranked() -> None:
    rows = [
        {
            "key": name,
            "vector": vector.astype(np.float32).tobytes(),
            "counted": 1.0,
            "popular": 1.0,
            "newest": 0,
            "others": [],
        }
        for name, vector in zip("ab", np.eye(2), strict=True)
    ]
    made = Params(k=2, popularity_share=0.0)
    items = ItemIndex.of(pa.Table.from_pylist(rows, item_index.SCHEMA), made)
    both = np.array([[0, 0], [0, 1]])
    got = ranking_metrics.judge_all(
        items, np.array([[1.0, 0.5]]), Liked(both[:1, 0], both[:1, 1], np.ones(1)), both, made
    )
    assert (got["factors"].users, got["factors"].recall_10, got["factors"].reciprocal_rank) == (1, 1, 1)


def test_every_way_to_rank_by_plain_loops() -> None:
    dice = np.random.default_rng(8)
    items, p, made = shop(9, 3, dice), dice.normal(size=(2, 3)), Params(k=3, neighbor_share=0.5, category_share=0.3)
    has = {0: {"i001": 2.0, "i005": 1.0}, 1: {}}
    places = [(user, int(items.places([name])[0]), weight) for user, own in has.items() for name, weight in own.items()]
    liked = Liked(*(np.array(part) for part in zip(*places, strict=True)))
    got = items.scores(p, liked, made)
    pairs: dict[tuple[str, str], float] = {}
    for n, name in enumerate(items.names):
        for at in range(items.starts[n], items.starts[n + 1]):
            other = items.names[items.neighbors[at]]
            pairs[name, other] = pairs.get((name, other), 0.0) + items.similarity[at]
    # One count, divided by the root of what the item weighs that the user has.
    one, two = (items.counted[items.places([name])[0]] for name in ("i001", "i002"))
    assert pairs["i001", "i002"] * one**0.5 == pytest.approx(pairs["i002", "i001"] * two**0.5)
    assert pairs["i001", "i002"] > 0 and one != two
    top = max(np.log1p(items.popular))
    for user, own in has.items():
        for n, name in enumerate(items.names):
            factors, popular = float(items.vectors[n] @ p[user]), float(np.log1p(items.popular[n]) / top)
            near = sum(pairs.get((other, name), 0.0) for other in own)
            same = sum(weight for other, weight in own.items() if int(other[1:]) % 3 == int(name[1:]) % 3)
            category = popular * (same / sum(own.values()) if own else 0.0)
            expected = {
                "factors": factors, "popularity": popular, "neighbors": near, "category": category,
                "blend": factors + 0.15 * popular + 0.5 * near + 0.3 * category,
            }  # fmt: skip
            for ranker, score in expected.items():
                assert got[ranker][user, n] == pytest.approx(score, rel=1e-6, abs=1e-7), (ranker, name)


def test_the_best_are_those_with_the_highest_scores_and_equal_ones_go_by_id() -> None:
    scores = np.array([[1.0, 3.0, 3.0, 3.0, 0.0], [-np.inf, 2.0, -np.inf, -np.inf, 1.0]])
    assert item_index.best(scores, 2).tolist() == [[1, 2], [1, 4]]
    assert item_index.best(scores, 4).tolist() == [[1, 2, 3, 0], [1, 4, 0, 2]]
    assert item_index.best(scores, 9).tolist() == [[1, 2, 3, 0, 4], [1, 4, 0, 2, 3]]
