"""Metrics of a ranking agree with trec_eval (by ir_measures), and count what they say they count."""

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, R, nDCG
from profilestream.learn import quality
from profilestream.learn.quality import Sums


def test_metrics_are_those_of_trec_eval() -> None:
    dice = np.random.default_rng(7)
    users, items = 40, 200
    scores = dice.permuted(np.tile(np.arange(items, dtype=float), (users, 1)), axis=1)
    is_target = dice.random((users, items)) < 0.03
    is_seen = (dice.random((users, items)) < 0.1) & ~is_target
    got = quality.judge(scores, is_target, is_seen, np.ones(items))
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
    got = quality.judge(scores, targets, np.zeros((2, 3), bool), popular)
    assert got.users == 1  # the other one has no target
    assert got.items.tolist() == [True, True, True]
    assert got.novelty == pytest.approx((1 + 2 + 2) / 3)


def test_users_in_parts_give_what_all_at_once_give(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = np.random.default_rng(3)
    p, q, popular = dice.normal(size=(30, 4)), dice.normal(size=(50, 4)), dice.random(50) * 9
    target, seen = (np.argwhere(dice.random((30, 50)) < share) for share in (0.05, 0.1))
    whole = quality.judge_all(p, q, popular, 0.15, target, seen)
    monkeypatch.setattr(quality, "_CELLS", 50 * 7)
    parts = quality.judge_all(p, q, popular, 0.15, target, seen)
    assert whole.keys() == parts.keys() == {"blend", "factors", "popularity"}
    for name, sums in whole.items():
        assert parts[name].as_bytes()[1] == sums.as_bytes()[1]
        np.testing.assert_allclose(np.frombuffer(parts[name].as_bytes()[0]), np.frombuffer(sums.as_bytes()[0]))
        assert Sums.of_bytes(*sums.as_bytes()).recall_20 == sums.recall_20


def test_what_is_seen_is_neither_a_target_nor_ranked() -> None:
    q, p = np.eye(2), np.array([[1.0, 0.5]])
    both = np.array([[0, 0], [0, 1]])
    got = quality.judge_all(p, q, np.ones(2), 0.0, both, both[:1])["factors"]
    assert (got.users, got.recall_10, got.reciprocal_rank) == (1, 1, 1)
