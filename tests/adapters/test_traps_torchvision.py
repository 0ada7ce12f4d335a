"""Traps of torchvision: what would let a clean, or a wrong, picture out without a word.

Each is shown first where it can be (as people write it), then that the library is not caught in it.
"""

import numpy as np
import pytest
import torch
from conftest import encode, image_set, pixels
from torch.utils.data import ConcatDataset, Subset, default_collate
from torchvision import tv_tensors
from torchvision.datasets import FakeData
from torchvision.transforms import v2

from unlearnable_transforms import CUDAPoison, Key, ProtectedDataset, SampleError

IMAGES = pixels(4, 12, 10, 3)
LABELS = [0, 1, 2, 3]


def test_compose_does_not_split_a_tensor_into_channels(poison):
    """Compose(steps)(tensor) unpacks a tensor into its channels where a step takes pairs."""
    image = torch.from_numpy(IMAGES[0]).permute(2, 0, 1)
    truth = poison(image, 2)[0]
    for kind in (image, tv_tensors.Image(image)):
        protected, label = v2.Compose([poison])(kind, 2)
        assert torch.equal(protected, truth)
        assert label == 2
        with pytest.raises(TypeError, match="the label is missing"):
            v2.Compose([poison])(kind)
    with pytest.raises(TypeError, match="the label is missing"):
        v2.Compose([poison])((image, 2))


def test_an_integer_label_is_enough():
    """v2's labels_getter="default" wants a tensor, which no torchvision classification set yields."""
    image = tv_tensors.Image(torch.from_numpy(IMAGES[0]).permute(2, 0, 1))
    poison = CUDAPoison(key=Key.public("tests"))
    results = [v2.Compose([poison])(image, label)[0] for label in (3, np.int64(3), torch.tensor(3), np.array(3))]
    assert all(torch.equal(result, results[0]) for result in results)


def test_a_label_tensor_before_the_image_is_not_taken_for_the_image(poison):
    image = torch.from_numpy(IMAGES[0]).permute(2, 0, 1)
    sample = poison({"label": torch.tensor(2), "image": image})
    assert list(sample) == ["label", "image"]
    assert sample["label"].item() == 2
    assert sample["image"].equal(poison(image, 2)[0])


def test_collated_batches_are_plain_tensors(poison):
    samples = [
        (tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1)), label)
        for image, label in zip(IMAGES, LABELS, strict=True)
    ]
    images, labels = default_collate(samples)
    assert type(images) is torch.Tensor
    protected, same = poison(images, labels)
    assert same is labels
    assert protected.permute(0, 2, 3, 1).numpy().tolist() == poison.apply(IMAGES, LABELS).tolist()


def test_wrapped_kinds_stay_wrapped(poison):
    batch = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    assert type(poison.apply(tv_tensors.Image(batch), LABELS)) is tv_tensors.Image
    assert type(poison.apply(tv_tensors.Video(batch), LABELS)) is tv_tensors.Video
    assert type(poison(tv_tensors.Image(batch[0]), 0)[0]) is tv_tensors.Image
    assert type(poison.apply(batch, LABELS)) is torch.Tensor


def test_arrays_do_not_pass_through_unchanged(poison):
    assert (v2.RandomInvert(p=1.0)(IMAGES[0]) == IMAGES[0]).all()  # the trap
    assert (v2.Compose([poison])(IMAGES[0], 1)[0] != IMAGES[0]).any()


def test_the_transform_of_a_torchvision_set_runs_after_the_poison(poison):
    seen = []

    def remember(image):
        seen.append(np.asarray(image).tolist())
        return v2.functional.pil_to_tensor(image).float()

    data = FakeData(size=3, image_size=(3, 12, 10), num_classes=3, transform=remember)
    clean = FakeData(size=3, image_size=(3, 12, 10), num_classes=3)
    wrapped = ProtectedDataset(data, poison)
    truth = [np.asarray(poison(*clean[i])[0]).tolist() for i in range(3)]
    assert [wrapped[i][0].permute(1, 2, 0).tolist() for i in range(3)] == truth
    assert seen == truth
    assert data.transform is remember  # the caller's own set is as it was
    assert data[0][0].permute(1, 2, 0).tolist() == np.asarray(clean[0][0]).tolist()
    assert len(wrapped) == 3


def test_target_transforms_stay(poison):
    data = FakeData(size=3, image_size=(3, 12, 10), num_classes=3, target_transform=lambda label: label + 5)
    wrapped = ProtectedDataset(data, poison)
    image, label = data[1]
    assert wrapped[1][1] == label
    assert wrapped[1][0].tobytes() == poison(image, label)[0].tobytes()


def fake(transform=None):
    return FakeData(size=4, image_size=(3, 12, 10), num_classes=3, transform=transform)


@pytest.mark.parametrize(
    "make",
    [
        lambda t: Subset(fake(t), [1, 2]),
        lambda t: Subset(Subset(fake(t), [1, 2]), [0]),
        lambda t: ConcatDataset([fake(), fake(t)]),
        lambda t: Subset(ConcatDataset([fake(t)]), [0]),
    ],
    ids=["Subset", "Subset of Subset", "ConcatDataset", "Subset of ConcatDataset"],
)
def test_a_hidden_transform_before_the_poison_is_refused(poison, make):
    with pytest.raises(ValueError, match="transform of FakeData would run before the poison"):
        ProtectedDataset(make(v2.RandomCrop(8)), poison)
    wrapped = ProtectedDataset(make(None), poison)
    assert wrapped[0][0].size == (10, 12)


def test_protected_dataset_refuses_what_it_cannot_protect(poison):
    with pytest.raises(TypeError, match="not a protection method"):
        ProtectedDataset(fake(), lambda image: image)
    with pytest.raises(TypeError, match="no length and positions"):
        ProtectedDataset(iter([]), poison)
    with pytest.raises(ValueError, match="has a transform already"):
        ProtectedDataset(fake(v2.RandomCrop(8)), poison, transform=v2.RandomCrop(8))
    with pytest.raises(TypeError, match=r"item 0 is not \(image, label\) but dict"):
        ProtectedDataset(image_set([encode(IMAGES[0])], [0]), poison)[0]
    with pytest.raises(SampleError, match="unlabelled"):
        ProtectedDataset([(IMAGES[0], -1)], poison)[0]
    with pytest.raises(TypeError, match="float32"):
        ProtectedDataset([(torch.rand(3, 8, 8), 1)], poison)[0]


def test_more_than_image_and_label_stays_in_an_item(poison):
    extra = object()
    image, label, same = ProtectedDataset([(IMAGES[0], 1, extra)], poison)[0]
    assert same is extra
    assert (image, label)[1] == 1
    assert image.tolist() == poison(IMAGES[0], 1)[0].tolist()
    with pytest.raises(TypeError, match=r"3 arguments.*boxes, masks and captions are not supported"):
        poison(IMAGES[0], 1, extra)


def test_negative_noise_does_not_wrap_and_floats_are_not_truncated(poison):
    """uint8 arithmetic wraps and ToDtype does not clamp; the darkest and lightest pictures show it."""
    for value in (1, 2, 254, 255):
        protected = poison(np.full((9, 9, 3), value, np.uint8), 3)[0]
        assert protected.max() == 255
        middle = protected[4, 4]
        assert middle.min() == 255  # inside, a flat picture stays flat: divided by its own maximum
