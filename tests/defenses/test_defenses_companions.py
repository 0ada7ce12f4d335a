"""RSR, AugMix and adversarial inputs: each by hand where it can be, and that it does what it is for."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import seeded
from small_victim import LABELS, SETTING, pictures, small_model  # noqa: F401  (the fixture model)
from torch import nn
from torch.nn.utils import parametrize

from unlearnable_transforms.defenses import get_defense
from unlearnable_transforms.defenses.augmix import AugMix, jensen_shannon
from unlearnable_transforms.defenses.base import Setting
from unlearnable_transforms.defenses.rsr import RSR, ChannelNoise, prune, set_noise, sparsity_of, weights
from unlearnable_transforms.training.loop import DIGITS, train
from unlearnable_transforms.training.model import PixelModel, accuracy, store_statistics, to_pixels
from unlearnable_transforms.victims import build_victim

# ---- RSR


def test_noise_follows_its_channel_and_spares_zeros():
    weight = nn.Parameter(torch.randn(3, 4, 5, 5, generator=seeded()))
    with torch.no_grad():
        weight[:, 0] = 0
    noise = ChannelNoise(weight, 0.25, seeded(1))
    with torch.no_grad():
        noise.amplitude.copy_(torch.tensor([0.0, 0.1, 2.0]).view(3, 1, 1, 1))
        changes = torch.stack([noise(weight) - weight for _ in range(200)])
    assert changes[:, :, 0].abs().max() == 0
    assert changes[:, 0].abs().max() == 0
    for channel, amplitude in ((1, 0.1), (2, 2.0)):
        found = changes[:, channel, 1:].std()
        assert found == pytest.approx(amplitude * weight.std().item(), rel=0.05)
        assert changes[:, channel, 1:].mean().abs() < 0.02 * found + 1e-3
    noise.active = False
    assert noise(weight) is weight


def test_amplitudes_are_trained_one_for_every_output_channel(model):
    defense = get_defense("rsr")(steps=2)
    net = defense.network(model.net, SETTING)
    amplitudes = {name: value for name, value in net.named_parameters() if "amplitude" in name}
    assert sorted(value.numel() for value in amplitudes.values()) == [4, 32, 64, 64]
    assert all((value == 0.25).all() for value in amplitudes.values())
    defense.recipe(DIGITS)
    defense.prepare(torch.zeros(1), torch.zeros(1), SETTING)
    defense.on_epoch(1)
    value, _ = defense.loss(model, pictures(), LABELS, seeded())
    value.backward()
    assert all(value.grad.abs().sum() > 0 for value in amplitudes.values())


def without_noise(model: PixelModel, **arguments) -> RSR:
    defense = get_defense("rsr")(noise=0.0, **arguments)
    assert isinstance(defense, RSR)
    defense.recipe(replace(DIGITS, epochs=32))
    defense.prepare(torch.zeros(1), torch.zeros(1), SETTING)
    defense.network(model.net, SETTING)
    model.net.eval()
    return defense


def test_the_loss_is_two_halves_and_the_lasso(model):
    defense = without_noise(model, eps=0.05, steps=4, clean_weight=0.3, lasso=1e-3)
    answers = model(pictures()).argmax(1)
    penalty = 1e-3 * sum(weight.abs().sum().item() for weight in weights(model.net))
    plain = F.cross_entropy(model(pictures()), answers).item()
    defense.on_epoch(1)  # of 32: the first is plain
    value, logits = defense.loss(model, pictures(), answers, seeded(2))
    assert value.item() == pytest.approx(plain + penalty, rel=1e-5)
    defense.on_epoch(2)
    value, logits = defense.loss(model, pictures(), answers, seeded(2))
    attacked = (value.item() - penalty - 0.3 * plain) / 0.7
    assert attacked > plain + 0.01
    assert logits.equal(model(pictures()))


def test_the_attack_goes_away_from_the_networks_own_answer(model):
    """With wrong labels, an attack on labels would lower the loss on the answers; this one raises it."""
    defense = without_noise(model, eps=0.05, steps=8, clean_weight=0.0, lasso=0.0)
    defense.on_epoch(32)
    answers = model(pictures()).argmax(1)
    wrong = (answers + 1) % 4
    plain = F.cross_entropy(model(pictures()), answers).item()
    to_answers, _ = defense.loss(model, pictures(), answers, seeded(2))
    to_wrong, _ = defense.loss(model, pictures(), wrong, seeded(2))
    assert to_answers.item() > plain
    assert to_wrong.item() < F.cross_entropy(model(pictures()), wrong).item()


def test_pruning_takes_the_smallest_weights_of_all_layers(model):
    values = torch.cat([weight.detach().flatten() for weight in weights(model.net)])
    prune(model.net, 0.0)
    assert torch.cat([weight.detach().flatten() for weight in weights(model.net)]).equal(values)
    prune(model.net, 0.6)
    after = torch.cat([weight.detach().flatten() for weight in weights(model.net)])
    assert sparsity_of(model.net) == pytest.approx(0.6, abs=1e-4)
    kept = after != 0
    assert after[kept].equal(values[kept])
    assert values[kept].abs().min() > values[~kept].abs().max()


@pytest.mark.slow
def test_rsr_trains_a_sparse_network_that_withstands_more(digits):
    images, labels = digits
    recipe = replace(DIGITS, epochs=6)
    setting = Setting(10, 8, "smallcnn", recipe, 0)
    clean = {}
    for lasso in (0.0, 2e-3):
        defense = get_defense("rsr")(eps=16 / 255, steps=3, lasso=lasso, sparsity=0.5)
        defense.recipe(recipe)
        net = defense.network(build_victim("smallcnn", 10, 8), setting)
        prepared = defense.prepare(images[:1000], labels[:1000], setting)
        train(net, prepared, labels[:1000], recipe=recipe, seed=0, loss=defense.loss, on_epoch=defense.on_epoch)
        clean[lasso] = sparsity_of(net, below=1e-3)
        defense.finish(net, setting)
        assert sparsity_of(net) == pytest.approx(0.5, abs=1e-3)
        assert accuracy(net, images[1000:], labels[1000:]) > 0.9
    assert clean[2e-3] > clean[0.0] + 0.3  # what the lasso alone pulled to zero


def test_noise_at_test_stays_or_goes(model):
    for stays in (True, False):
        defense = get_defense("rsr")(noise_at_test=stays, noise=1.0)
        net = defense.network(build_victim("smallcnn", 4, 8), SETTING)
        store_statistics(net, (pictures() * 255).to(torch.uint8))
        defense.finish(net, SETTING)
        net.eval()
        first, second = (PixelModel(net, bf16=False)(pictures()) for _ in range(2))
        assert first.equal(second) is not stays
        set_noise(net, False)
        assert parametrize.is_parametrized(net.classifier)
        first, second = (PixelModel(net, bf16=False)(pictures()) for _ in range(2))
        assert first.equal(second)


# ---- AugMix


def test_jensen_shannon_by_hand():
    logits, others = torch.randn(2, 3, 5, generator=seeded()).double().unbind()
    rows = torch.tensor([2, 0, 2])
    found = jensen_shannon(logits, others, rows)
    for row in range(3):
        parts = torch.stack([logits[row], *others[rows == row]]).softmax(1)
        middle = parts.mean(0)
        by_hand = (parts * (parts / middle).log()).sum(1).mean()
        assert found[row].item() == pytest.approx(by_hand.item(), abs=1e-9)
    assert found[1].item() == pytest.approx(0, abs=1e-12)
    opposite = jensen_shannon(torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 50.0]]), torch.tensor([0]))
    assert opposite.item() == pytest.approx(math.log(2), rel=1e-4)


def ready(**arguments) -> AugMix:
    defense = get_defense("augmix")(**arguments)
    assert isinstance(defense, AugMix)
    defense.prepare(torch.zeros(1), torch.zeros(1), SETTING)
    return defense


def test_views_go_to_the_boundary(model):
    model.net.eval()
    plain, mined = ready(views=3), ready(views=3, bullet=True, robust_views=1, outlier_views=0)
    assert plain._counts(model, pictures(), LABELS).tolist() == [3] * 20
    assert mined._counts(model, pictures(), LABELS).tolist() == [3] * 20  # nothing has been seen yet
    mined.mining.outlier, mined.mining.robust = 0.25, 0.5
    outliers, boundary, robust = mined.mining.groups(model(pictures()).softmax(1), LABELS)
    counts = mined._counts(model, pictures(), LABELS)
    assert (counts[outliers] == 0).all()
    assert (counts[boundary] == 3).all()
    assert (counts[robust] == 1).all()
    done = model.forward_images
    mined.loss(model, pictures(), LABELS, seeded())
    assert model.forward_images - done == 20 + 20 + 5 * 3 + 10  # looked at, learnt from, views


def test_augmix_sees_which_views_went_wrong(model):
    model.net.eval()
    with torch.no_grad():
        answers = model(pictures()).argmax(1)
    same = ready(views=1)
    value, logits = same.loss(model, pictures(), answers, seeded(4))
    assert logits.argmax(1).equal(answers)
    assert same.mining.outlier == 0
    assert 0 < same.mining.robust <= 0.1  # a tenth of what was seen
    assert value.item() > F.cross_entropy(logits, answers).item()
    none = ready(views=1, beta=0.0)
    value, logits = none.loss(model, pictures(), answers, seeded(4))
    assert value.item() == pytest.approx(F.cross_entropy(logits, answers).item(), rel=1e-6)


# ---- adversarial inputs


@pytest.mark.parametrize("external", ["protected", "clean"])
def test_inputs_move_to_what_the_external_network_finds_least_likely(digits, external):
    images, labels = digits
    wrong = (labels[:600] + 1) % 10  # the training set is labelled wrongly, the clean pictures rightly
    setting = Setting(10, 8, "smallcnn", replace(DIGITS, epochs=6), 0, clean=(images[600:1200], labels[600:1200]))
    defense = get_defense("adversarial-input")(external=external, eps=0.3, steps=10)
    assert defense.needs_clean is (external == "clean")
    assert defense.prepare(images[:600], wrong, setting).equal(images[:600])
    learnt = (labels if external == "clean" else (labels + 1) % 10)[1200:1400]
    pixels = to_pixels(images[1200:1400])
    answers = defense._model(pixels)
    assert (answers.argmax(1) == learnt).float().mean() > 0.8
    found = defense.perturb(None, pixels, labels[1200:1400], seeded(1))
    assert (found - pixels).abs().max() <= 0.3 + 1e-6
    target = answers.argmin(1)
    before, after = (logits.softmax(1).gather(1, target[:, None]) for logits in (answers, defense._model(found)))
    assert after.mean() > before.mean() + 0.2
    tested = defense.test(images[1200:1400], setting)
    assert tested.dtype == torch.float32
    assert tested.equal(defense.test(images[1200:1400], setting))
    assert (tested - pixels).abs().max() <= 0.3 + 1e-6


def test_a_clean_external_network_needs_clean_pictures(digits):
    setting = Setting(10, 8, "smallcnn", DIGITS, 0)
    with pytest.raises(ValueError, match="give some"):
        get_defense("adversarial-input")(external="clean").prepare(*(part[:100] for part in digits), setting)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("rsr", {"sparsity": 1.0}),
        ("rsr", {"lasso": -1}),
        ("rsr", {"clean_weight": 2}),
        ("rsr", {"steps": 0}),
        ("augmix", {"views": 0}),
        ("augmix", {"outlier_views": -1}),
        ("adversarial-input", {"external": "other"}),
        ("adversarial-input", {"eps": -0.1}),
    ],
)
def test_bad_settings_are_refused(name, arguments):
    with pytest.raises(ValueError, match="got"):
        get_defense(name)(**arguments)
