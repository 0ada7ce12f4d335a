"""Traps of torchvision: what would let a clean, or a wrong, picture out without a word.

Each is shown first where it can be (as people write it), then that the library is not caught in it.
"""

import pickle
from collections import namedtuple

import numpy as np
import pytest
import torch
from conftest import ROOT, encode, image_set, pixels
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Subset, default_collate, random_split
from torchvision import tv_tensors
from torchvision.datasets import FakeData, ImageFolder, VisionDataset, wrap_dataset_for_transforms_v2
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


class Joint(VisionDataset):
    """Applies ``transforms`` to image and label together, as torchvision's detection datasets do."""

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        image, label = Image.fromarray(IMAGES[index]), LABELS[index]
        return (image, label) if self.transforms is None else self.transforms(image, label)


def test_joint_transforms_before_the_poison_are_refused(tmp_path, poison):
    flip = v2.RandomHorizontalFlip(p=1.0)
    later = Joint(tmp_path)
    later.transforms = flip
    for data in (Joint(tmp_path, transforms=flip), later, Subset(Joint(tmp_path, transforms=flip), [0])):
        with pytest.raises(
            ValueError, match=r"transform of Joint would run before the poison.*ProtectedDataset returns"
        ):
            ProtectedDataset(data, poison)
    labels_alone = Joint(tmp_path, target_transform=lambda label: label + 1)
    assert ProtectedDataset(labels_alone, poison)[0][0].tobytes() == poison(Image.fromarray(IMAGES[0]), 1)[0].tobytes()
    separate = ProtectedDataset(Joint(tmp_path, transform=flip), poison)
    assert separate[1][0].tobytes() == flip(poison(Image.fromarray(IMAGES[1]), 1)[0]).tobytes()


@pytest.fixture
def folder(tmp_path):
    for name, image in zip(("cat", "dog"), IMAGES, strict=False):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(encode(image))
    return ImageFolder(tmp_path, transform=np.asarray)


def test_the_v2_wrapper_of_a_dataset_is_looked_into(folder, poison):
    folder.transform = None
    folder.transforms = v2.RandomHorizontalFlip(p=1.0)
    with pytest.raises(ValueError, match="would run before the poison"):
        ProtectedDataset(wrap_dataset_for_transforms_v2(folder), poison)


def test_attributes_that_samplers_and_reports_use(folder, poison):
    wrapped = ProtectedDataset(folder, poison)
    assert wrapped.classes == ["cat", "dog"]
    assert wrapped.class_to_idx == {"cat": 0, "dog": 1}
    assert wrapped.targets == [0, 1]
    assert wrapped.samples == wrapped.imgs == folder.samples
    assert not hasattr(ProtectedDataset(fake(), poison), "classes")


def test_nothing_leads_past_the_poison(poison):
    """DataLoader and Subset take a dataset's ``__getitems__`` where there is one; MNIST has its images in ``data``."""

    class Whole(FakeData):
        data = IMAGES

        def __getitems__(self, indices):
            return [self[index] for index in indices]

    wrapped = ProtectedDataset(Whole(size=4, image_size=(3, 12, 10), num_classes=3), poison)
    with pytest.raises(AttributeError, match="has no 'data'; the clean dataset is its attribute `dataset`"):
        _ = wrapped.data
    truth = [wrapped[index][0].tobytes() for index in range(4)]
    for data in (wrapped, Subset(wrapped, range(4))):
        (batch,) = DataLoader(data, batch_size=4, collate_fn=list)
        assert [image.tobytes() for image, _ in batch] == truth


def test_it_works_inside_torch_datasets_and_pickles(folder, poison):
    wrapped = ProtectedDataset(folder, poison)
    truth = [poison(np.asarray(image), label)[0].tolist() for image, label in ImageFolder(folder.root)]
    again = pickle.loads(pickle.dumps(wrapped))
    assert again.classes == wrapped.classes
    parts = random_split(wrapped, [1, 1], generator=torch.Generator().manual_seed(0))
    order = [index for part in parts for index in part.indices]
    assert [again[index][0].tolist() for index in range(2)] == truth
    assert [image.tolist() for image, _ in Subset(wrapped, [1])] == truth[1:]
    assert [image.tolist() for image, _ in ConcatDataset([wrapped, again])] == truth * 2
    assert [part[0][0].tolist() for part in parts] == [truth[index] for index in order]


def test_a_second_image_in_an_item_is_refused(poison):
    for second in (IMAGES[1], Image.fromarray(IMAGES[1]), torch.zeros(3, 9, 9, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"item\[2\] of item 0 hold images too"):
            ProtectedDataset([(IMAGES[0], 1, second)], poison)[0]


def test_a_named_tuple_stays_one(poison):
    Sample = namedtuple("Sample", "image label name")
    item = ProtectedDataset([Sample(IMAGES[0], 1, "a")], poison)[0]
    assert type(item) is Sample
    assert item.image.tolist() == poison(IMAGES[0], 1)[0].tolist()
    assert (item.label, item.name) == (1, "a")


def test_random_containers_are_a_documented_trap(poison):
    """No call reaches the poison where v2 leaves it out: only the page can warn."""
    image = Image.fromarray(IMAGES[0])
    for container in (v2.RandomApply([poison], p=0.0), v2.RandomChoice([poison, v2.Identity()], p=[0, 1])):
        assert container(image, 0)[0] is image
        assert type(container).__name__ in (ROOT / "docs" / "conventions.md").read_text(encoding="utf-8")


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
    extra = {"width": 8}
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


def test_a_protected_dataset_is_not_protected_again(poison):
    wrapped = ProtectedDataset(fake(), poison)
    for again in (wrapped, Subset(wrapped, [0])):
        with pytest.raises(ValueError, match="ProtectedDataset already"):
            ProtectedDataset(again, poison)
