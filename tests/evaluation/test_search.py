"""The search for the worst case, on accuracies that are known beforehand."""

from dataclasses import replace

import pytest
from evaluations import KEY, NEEDED, PLAN

import unlearnable_transforms as ut
from unlearnable_transforms.errors import UsageError
from unlearnable_transforms.evaluation import evaluate as evaluate_module
from unlearnable_transforms.evaluation.report import Report
from unlearnable_transforms.evaluation.search import JOIN, Trial, growth, search, spent, worst

SINGLES = [f"d{number}" for number in range(16)]


def _measure(table, calls=None):
    """Accuracies of a table, else 0.01 for each number: d15 is the best single that nobody named."""

    def measure(specs, full):
        if calls is not None:
            calls.append((list(specs), full))
        return [table.get(spec, 0.01 * max(int(part[1:]) for part in spec.split(JOIN))) for spec in specs]

    return measure


def test_a_pair_in_one_order_is_found():
    calls = []
    trials = search(_measure({"d14 + d13": 0.8}, calls), SINGLES, 40, identify=str)
    assert worst(trials) == Trial("d14 + d13", True, 0.8)
    assert spent(trials) <= 40
    assert calls[0] == (SINGLES, False)
    assert calls[1][1]
    assert set(calls[1][0]) == {"d15", "d14", "d13", "d12"}
    assert "d13 + d14" in calls[2][0]
    assert not calls[2][1]  # all pairs are screened; the best are trained in full
    assert calls[3][1]
    assert calls[3][0][0] == "d14 + d13"


def test_a_triple_grows_out_of_the_best_pair():
    table = {"d15 + d12": 0.5, "d13 + d15 + d12": 0.9}
    trials = search(_measure(table), SINGLES, 60, identify=str)
    assert worst(trials).defense == "d13 + d15 + d12"


def test_the_budget_is_kept_and_nothing_is_trained_twice():
    for budget in (8, 11, 20):
        trials = search(_measure({}), SINGLES, budget, identify=str)
        screened = [trial for trial in trials if not trial.full]
        alone = [trial for trial in screened if JOIN not in trial.defense]
        assert len(alone) == min(16, int(3 * budget / 2))  # each a third of a training, half of the budget at most
        assert budget - 1 < len(screened) / 3 + len(trials) - len(screened) <= budget
        assert len({(trial.defense, trial.full) for trial in trials}) == len(trials)


def test_the_plot_grows_with_what_was_spent():
    """Three screened trainings are the first unit; screening alone finds nothing."""
    trials = [Trial(name, False, 0.9) for name in "abc"] + [Trial("a", True, 0.2), Trial("b", True, 0.1)]
    assert growth([*trials, Trial("a + b", True, 0.5)]) == [0.0, 0.2, 0.2, 0.5]


def test_it_ends_where_nothing_is_left():
    trials = search(_measure({}), SINGLES[:2], 40, identify=str)
    assert [trial.defense for trial in trials] == ["d0", "d1", "d1", "d0", *2 * ["d1 + d0", "d0 + d1"]]


def test_sequences_that_do_not_fit_and_trainings_that_diverge_are_left_out():
    trials = search(
        _measure({"d15": None, "d14": None}),
        SINGLES,
        40,
        identify=lambda spec: None if spec.startswith("d13") else spec,
    )
    tried = {trial.defense for trial in trials if JOIN in trial.defense}
    assert tried
    assert not [spec for spec in tried if spec.startswith("d13") or "d15" in spec or "d14" in spec]


def test_two_orders_of_one_training_are_trained_once():
    trials = search(_measure({}), SINGLES, 40, identify=lambda spec: frozenset(spec.split(JOIN)))
    longer = [trial.defense for trial in trials if JOIN in trial.defense and not trial.full]
    assert len(longer) == 6 + 4 + 1  # pairs, triples and all four of d15 to d12, each once
    assert len({frozenset(spec.split(JOIN)) for spec in longer}) == len(longer)


def test_too_small_a_budget_is_refused():
    with pytest.raises(UsageError, match="at least 8 trainings, got 7"):
        search(_measure({}), SINGLES, 7, identify=str)


def test_a_search_on_digits_keeps_every_training_and_says_what_it_found(tmp_path, monkeypatch):
    """Each training is a cell; the report names the sequence, also when it is read from the files; nothing is trained
    again."""
    singles = ["bdr", "cutout", "erm", "fine-tune", "grayscale", "jpeg", "mixup", "simclr"]
    monkeypatch.setattr(evaluate_module.REGISTRY, "names", lambda: singles)
    plan = replace(PLAN, recipe=replace(PLAN.recipe, epochs=3))  # screened by two epochs
    asked = {
        **NEEDED,
        "recipe": plan,
        "poisons": [ut.CUDAPoison(key=KEY)],
        "defenses": "search",
        "budget": 12,
        "out": tmp_path,
    }
    report = ut.evaluate(**asked)
    ((label, trials),) = report.searches.items()
    assert label.startswith("cuda")
    assert 11 < spent(trials) <= 12
    assert [trial.defense for trial in trials[:5]] == ["bdr", "cutout", "grayscale", "jpeg", "mixup"]  # no clean images
    best = worst(trials)
    (headline,) = report.tables[0].headlines
    assert headline.entry.last == pytest.approx(best.accuracy)
    assert report.accuracy("clean", headline.defense) > 0  # the control of what was found
    assert {"erm", headline.defense} <= set(report.tables[0].columns)
    again = Report.load(tmp_path)
    assert again.searches == report.searches
    assert f"under {best.defense}" in str(again)
    assert "highest accuracy so far" in again.html()
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*_*.json")}
    expected = len(trials) + 3 * (1 + 1) - 1  # plain training and the winner on three sets; one of them was searched
    assert len(files) == expected
    ut.evaluate(**asked)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*_*.json")} == files


def test_a_budget_that_searches_nothing_is_refused():
    with pytest.raises(UsageError, match="at least 8 trainings"):
        ut.evaluate(**NEEDED, poisons=[ut.CUDAPoison(key=KEY)], defenses="search", budget=3)


@pytest.mark.parametrize("weights", [False, True])
def test_every_registered_defense_is_tried_or_is_impossible(monkeypatch, tmp_path, weights):
    """One without a default and a costly one are left out; clean images are needed whatever the start, but for the
    start itself."""
    singles = []

    def stop(measure, names, budget, *, identify):
        singles.extend(names)
        raise KeyboardInterrupt

    if weights:
        monkeypatch.setattr("unlearnable_transforms.defenses.pretrained.has_weights", lambda victim: True)
    monkeypatch.setattr(evaluate_module, "search", stop)
    with pytest.raises(KeyboardInterrupt):
        ut.evaluate(**NEEDED, poisons=[ut.CUDAPoison(key=KEY)], defenses="search", controls=False, out=tmp_path)
    started = {"fine-tune", "last-layer"}
    assert set(ut.list_defenses()) - set(singles) == {"erm", "purify", "simclr", "d-vae", "dilution", "early-stop"} | (
        set() if weights else started
    )
