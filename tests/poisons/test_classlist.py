"""Methods that need the class list, AR and LSP: where it comes from, how it grows, what is refused."""

import pickle

import datasets
import numpy as np
import pytest
import torch
from conftest import CLASSES, encode, image_set, pixels
from folders import make_folder
from model_free import make_ar as make
from model_free import make_lsp
from PIL import Image
from torchvision.datasets import FakeData

from unlearnable_transforms import CUDAPoison, NotFittedError, SampleError
from unlearnable_transforms.data.open import open_data

BOTH = pytest.mark.parametrize("make", [make, make_lsp], ids=["ar", "lsp"])

FILTER = CUDAPoison(kernels={0: np.ones((1, 1))})


def test_a_growing_set_keeps_the_processes_of_its_classes():
    few, many = make(classes=range(4)).coefficients(range(4)), make(classes=range(12)).coefficients(range(4))
    assert (few == many).all()
    gaps = make(classes=[7, 2]).coefficients([2, 7])
    assert (gaps == make().coefficients([2, 7])).all()
    names = make(classes=None, known=["bee", "dog"])
    before = names.coefficients(["bee", "dog"])
    names.extend((pixels(3, 8, 8, 3), ["ant", "dog", "cat"]))
    assert names.known == ["bee", "dog", "ant", "cat"]
    assert (names.coefficients(["bee", "dog"]) == before).all()
    assert (make(classes=None, known=names.known).coefficients(["cat"]) == names.coefficients(["cat"])).all()
    alone = [make(classes=None, known=[name]).coefficients([name]) for name in ("ant", "bee")]
    assert (alone[0] != alone[1]).any()  # albums that are protected one by one do not all get one process


def test_class_order():
    assert make(classes=[2, 0]).class_order() == ["i:0", "i:1", "i:2"]
    assert make(classes=[5000, 1024, 2]).class_order() == ["i:0", "i:1", "i:2", "i:1024", "i:5000"]
    assert make(classes=["b", "a"]).class_order() == ["s:a", "s:b"]
    assert make(classes=None, known=["b", "a"]).class_order() == ["s:b", "s:a"]
    assert make(classes=None, known=[5000, 1030]).class_order() == ["i:5000", "i:1030"]


@BOTH
def test_where_the_class_list_comes_from_does_not_matter(make):
    images, labels = pixels(8, 8, 8, 3), [3, 0, 2, 1] * 2
    names = [CLASSES[label] for label in labels]
    truth = make(classes=CLASSES).apply(images, names)
    assert (make(classes=CLASSES[::-1]).apply(images, names) == truth).all()
    assert (make(classes=None, data=(images[::-1], names[::-1])).apply(images, names) == truth).all()
    assert (make(classes=CLASSES).apply(images, labels) == truth).all()
    numbers = make(classes=range(4)).apply(images, labels)
    assert (numbers != truth).any()
    assert (make(classes=None, known=[2, 3, 1, 0]).apply(images, labels) == numbers).all()
    for data in (
        (images, labels),
        (torch.from_numpy(images).permute(0, 3, 1, 2), torch.tensor(labels)),
        list(zip(images, labels, strict=True)),
        torch.utils.data.Subset(list(zip(images, labels, strict=True)), range(8)),
        image_set([encode(image) for image in images], labels),
        image_set([encode(image) for image in images], labels).with_format("torch"),
    ):
        assert (make(classes=None).fit(data).apply(images, labels) == numbers).all()
    given = make(classes=range(4))
    assert given.fit(None).extend(None) == make(classes=range(4))


def test_a_fit_reads_labels_and_opens_no_picture(tmp_path, monkeypatch):
    broken = image_set([b"not a picture"] * 3, [5, 0, 5])
    assert make(classes=None, data=broken).known == [0, 5]
    source = make_folder(tmp_path / "pictures")
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", lambda *_: pytest.fail("a picture was opened"))
        assert make(classes=None, data=open_data(source).to_fit(FILTER)).known == [
            0,
            1,
            2,
        ]
        assert make(classes=None, data=open_data(source, label="me").to_fit(FILTER)).known == ["me"]

    data = Labelled(3)
    monkeypatch.setattr(Labelled, "__getitem__", lambda *_: pytest.fail("a picture was opened"))
    assert make(classes=None, data=data).known == [0, 1, 4]


class Labelled(FakeData):
    """A data set of torchvision with a list of its labels."""

    targets = (1, 0, 4)

    def __getitem__(self, row):
        return Image.new("RGB", (8, 8)), self.target_transform(self.targets[row])


def test_labels_that_are_transformed_are_read_one_by_one():
    data = Labelled(3, target_transform=lambda label: f"class {label}")
    assert make(classes=None, data=data).known == ["class 0", "class 1", "class 4"]


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (lambda: image_set([encode(pixels(8, 8, 3))], [0]).to_iterable_dataset(), TypeError, "streaming"),
        (lambda: datasets.DatasetDict(train=image_set([], [])), TypeError, r"data\['train'\]"),
        (lambda: None, TypeError, "pass a datasets.Dataset"),
        (lambda: (pixels(2, 8, 8, 3), [0]), SampleError, "2 images came with 1 labels"),
        (lambda: (pixels(3, 8, 8, 3), [0, -1, 0]), SampleError, "row 1: the label is -1"),
        (lambda: (pixels(0, 8, 8, 3), []), SampleError, "empty"),
        (lambda: (pixels(2, 8, 8, 3), [0, "cat"]), ValueError, "mixes integers and text"),
        (lambda: (pixels(2, 8, 8, 3), np.eye(2)), TypeError, "one class"),
    ],
)
def test_data_without_a_class_list_is_refused(data, kind, message):
    with pytest.raises(kind, match=message):
        make(classes=None).fit(data())


@BOTH
def test_classes_that_are_not_known_are_refused_by_name(make):
    images = pixels(6, 8, 8, 3)
    poison = make(classes=None, data=(images[:4], ["ant", "bee"] * 2))
    with pytest.raises(SampleError, match=r"rows 1, 3: the class 'cat' .* poison.extend"):
        poison.apply(images[:4], ["ant", "cat", "bee", "dog"])
    gaps = make(classes=None, known=[0, 2])
    with pytest.raises(SampleError, match="row 1: the class 1"):
        gaps.apply(images[:2], [0, 1])
    with pytest.raises(SampleError, match="label 11 is not in classes="):
        make().apply(images[:2], [0, 11])
    with pytest.raises(SampleError, match="label 'cat' is not in classes="):
        make(classes=["ant", "bee"]).apply(images[:2], ["ant", "cat"])
    with pytest.raises(ValueError, match="mixes"):
        poison.extend((images[:1], [3]))
    assert poison.known == ["ant", "bee"]
    before = poison.apply(images[:2], ["ant", "bee"])
    poison.extend((images, ["cat"] * 6))
    assert (poison.apply(images[:2], ["ant", "bee"]) == before).all()
    assert (poison.apply(images[:2], ["ant", "cat"])[1] != before[1]).any()


@BOTH
def test_without_the_class_list_nothing_is_protected(make):
    poison = make(classes=None)
    for call in (
        lambda: poison.apply(pixels(1, 8, 8, 3), [0]),
        lambda: poison.coefficients([0]) if poison.name == "ar" else poison.centres(),
        lambda: poison.extend(([], [])),
        lambda: pickle.loads(pickle.dumps(poison)).apply(pixels(1, 8, 8, 3), [0]),
    ):
        with pytest.raises(NotFittedError, match="fit"):
            call()
