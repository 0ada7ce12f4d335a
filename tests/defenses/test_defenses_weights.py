"""Defenses that choose weights: fine-tuning, the last layer, early stopping."""

from dataclasses import replace
from pickle import UnpicklingError

import pytest
import torch
from small_training import RECIPE, coloured, make_setting
from torch import nn

from unlearnable_transforms.defenses import get_defense
from unlearnable_transforms.defenses.pretrained import last_linear, load_weights
from unlearnable_transforms.training.loop import History, train
from unlearnable_transforms.training.model import accuracy
from unlearnable_transforms.victims import build_victim

# ---- fine-tuning and the last layer


def _trained(seed: int = 3) -> nn.Module:
    net = build_victim("smallcnn", 10, 8, seed)
    train(net, *coloured(200, seed=4), recipe=RECIPE, seed=0)
    return net.train()


def _trained_by(name: str, **arguments) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The network after training, and its weights before."""
    setting = make_setting()
    defense = get_defense(name)(**arguments)
    net = defense.network(build_victim("smallcnn", 10, 8, 9), setting)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    defense.train(
        net, *coloured(200, seed=6), setting=setting, recipe=defense.recipe(RECIPE), history=History(),
        test=coloured(20, seed=7),
    )  # fmt: skip
    return net, before


def _body(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if key.startswith("features")}


def test_last_layer_leaves_the_body_bit_identical():
    net, before = _trained_by("last-layer")
    after = net.state_dict()
    assert len(_body(after)) == 3 * 6  # weights and statistics
    assert all(value.equal(before[key]) for key, value in _body(after).items())
    assert not after["classifier.weight"].equal(before["classifier.weight"])
    assert accuracy(net, *coloured(100, seed=7)) > 0.9


def test_last_layer_is_fitted_anew_whatever_it_was():
    """Fitted to labels in reverse, a layer knows nothing of those that it was trained on before."""
    setting, (images, labels) = make_setting(), coloured(200, seed=6)
    defense = get_defense("last-layer")()
    net = defense.network(build_victim("smallcnn", 10, 8, 9), setting)
    assert accuracy(net, *coloured(100, seed=7)) > 0.9
    test, true = coloured(100, seed=7)
    defense.train(net, images, 9 - labels, setting=setting, recipe=RECIPE, history=History(), test=(test, true))
    assert accuracy(net, test, 9 - true) > 0.9


def test_fine_tuning_trains_all_layers_at_a_tenth_of_the_rate():
    net, before = _trained_by("fine-tune")
    weights = dict(net.named_parameters())
    assert all(not value.equal(before[key]) for key, value in weights.items())
    assert get_defense("fine-tune")().recipe(RECIPE) == replace(RECIPE, max_lr=0.1 * RECIPE.max_lr)
    assert get_defense("last-layer")().recipe(RECIPE) == RECIPE


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_weights_from_a_file(tmp_path, kind):
    source, path = _trained(), tmp_path / f"net.{kind}"
    if kind == "pt":
        torch.save(source.state_dict(), path)
    else:
        state = {key: value.contiguous() for key, value in source.state_dict().items()}
        pytest.importorskip("safetensors.torch").save_file(state, path)
    defense = get_defense("fine-tune")(weights=str(path))
    assert not defense.needs_clean
    net = defense.network(build_victim("smallcnn", 10, 8), make_setting(clean=None))
    assert all(value.equal(net.state_dict()[key]) for key, value in source.state_dict().items())
    assert accuracy(net, *coloured(100, seed=7)) > 0.9

    other = build_victim("smallcnn", 4, 8)
    head = other.classifier.weight.clone()
    load_weights(other, path)  # other classes: only the body
    assert other.classifier.weight.equal(head)
    assert all(value.equal(source.state_dict()[key]) for key, value in _body(other.state_dict()).items())
    with pytest.raises(ValueError, match="does not fit"):
        load_weights(build_victim("resnet9-screen", 10, 8), path)


def test_weights_that_would_run_code_are_refused(tmp_path):
    torch.save({"classifier.weight": pytest.approx}, tmp_path / "evil.pt")
    with pytest.raises(UnpicklingError, match="Weights only load failed"):
        load_weights(build_victim("smallcnn", 10, 8), tmp_path / "evil.pt")


def test_last_linear():
    net = build_victim("smallcnn", 10, 8)
    assert last_linear(net) is net.classifier
    with pytest.raises(ValueError, match="linear"):
        last_linear(nn.Conv2d(3, 3, 1))


@pytest.mark.parametrize("name", ["fine-tune", "last-layer", "early-stop"])
def test_clean_pictures_are_asked_for(name):
    defense = get_defense(name)()
    assert defense.needs_clean

    def use():
        defense.prepare(*coloured(12, seed=0), make_setting(clean=None))
        defense.network(build_victim("smallcnn", 10, 8), make_setting(clean=None))

    with pytest.raises(ValueError, match="clean"):
        use()


# ---- early stopping


def _epochs(defense, states: list[dict[str, torch.Tensor]]) -> nn.Module:
    """Run the hooks as a training does whose epochs end in the states given."""
    setting = make_setting()
    defense.prepare(*coloured(12, seed=0), setting)
    net = defense.network(build_victim("smallcnn", 10, 8), setting)
    for epoch, state in enumerate(states, start=1):
        defense.on_epoch(epoch)
        net.load_state_dict(state)
    defense.finish(net, setting)
    return net


@pytest.mark.parametrize("order", ["bad good bad", "good bad", "bad good", "good"])
def test_early_stop_returns_the_best_epoch(order):
    good, bad = _trained().state_dict(), _trained().state_dict()
    bad = bad | {"classifier.weight": bad["classifier.weight"].roll(1, 0)}
    states = [{"good": good, "bad": bad}[each] for each in order.split()]
    defense = get_defense("early-stop")()
    net = _epochs(defense, states)
    assert defense.best_epoch == 1 + order.split().index("good")
    assert len(defense.accuracies) == len(states)
    assert max(defense.accuracies) == defense.accuracies[defense.best_epoch - 1] > 0.9
    assert all(value.equal(good[key]) for key, value in net.state_dict().items())


def test_early_stop_takes_the_first_of_equal_epochs():
    good = _trained().state_dict()
    shifted = good | {"classifier.bias": good["classifier.bias"] + 1}  # other weights, the same predictions
    defense = get_defense("early-stop")()
    net = _epochs(defense, [shifted, good])
    assert defense.best_epoch == 1
    assert net.classifier.bias.equal(shifted["classifier.bias"])


def test_early_stop_in_a_training_keeps_what_it_measured():
    defense, setting, states = get_defense("early-stop")(), make_setting(), []
    images, labels = coloured(100, seed=6)
    wrong = (labels + 1) % 10  # the longer it trains, the worse
    net = _trained()
    defense.prepare(images, wrong, setting)
    defense.network(net, setting)
    recipe = replace(RECIPE, epochs=4, max_lr=0.02)

    def keep(epoch, history):
        states.append({key: value.clone() for key, value in net.state_dict().items()})

    train(net, images, wrong, recipe=recipe, seed=0, on_epoch=defense.on_epoch, progress=keep)
    measured = []
    for state in states:
        net.load_state_dict(state)
        measured.append(accuracy(net, *setting.clean, bf16=False))
    defense.finish(net, setting)  # the last state is still in the network
    assert defense.accuracies == pytest.approx(measured)
    best = states[measured.index(max(measured))]
    assert all(value.equal(best[key]) for key, value in net.state_dict().items())
    assert max(measured) > measured[-1] + 0.1
