"""AR and LSP alike: the noise of a picture follows from the key, the class and the picture, and from nothing else."""

import numpy as np
import pytest
import torch
from conftest import middling, pixels
from model_free import TEN, make_ar, make_lsp
from PIL import Image

from unlearnable_transforms import Key
from unlearnable_transforms.pixels import chunk_length

pytestmark = pytest.mark.parametrize("make", [make_ar, make_lsp], ids=["ar", "lsp"])


def test_each_picture_has_noise_of_its_own(make):
    images = middling(50, 8, 8, 3)
    noise = make().apply(images, [4] * 50).astype(int) - images
    assert len(np.unique(noise.reshape(50, -1), axis=0)) == 50
    images[:] = images[0]
    assert len(np.unique(make().apply(images, [4] * 50).reshape(50, -1), axis=0)) == 1
    assert len(np.unique(make().apply(images[:10], TEN).reshape(10, -1), axis=0)) == 10
    assert (make(key=Key.public("another")).apply(images, [4] * 50) != make().apply(images, [4] * 50)).any()


@pytest.mark.parametrize("shape", [(32, 32), (40, 37)], ids=str)
def test_order_batches_and_chunks_do_not_matter(make, shape):
    poison = make()
    count = chunk_length(3 * shape[0] * shape[1]) + 37
    images, labels = pixels(count, *shape, 3), np.random.default_rng(1).integers(0, 10, count)
    images[3::7] = images[3::7, :, :, :1]  # grey ones among them
    whole = poison.apply(images, labels)
    order = np.random.default_rng(2).permutation(count)
    assert (make().apply(images[order], labels[order]) == whole[order]).all()
    for start, stop in ((0, 1), (3, 4), (5, 22), (count - 40, count)):
        assert (make().apply(images[start:stop], labels[start:stop]) == whole[start:stop]).all()


def test_settings_of_torch_do_not_matter(make):
    images = torch.from_numpy(pixels(10, 3, 33, 40))
    before = make().apply(images, TEN)
    torch.set_default_dtype(torch.float16)
    try:
        assert make().apply(images, TEN).equal(before)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.inference_mode():
        assert make().apply(images, TEN).equal(before)


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7), (2, 3)], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "1", "P"])
@pytest.mark.filterwarnings("ignore::unlearnable_transforms.UnchangedWarning")
def test_pil_pictures_of_every_mode_and_size(make, size, mode):
    image = Image.fromarray(pixels(*size, 3)).convert(mode)
    protected, label = make()(image, 3)
    assert protected.size == image.size
    assert label == 3
    again = make().apply([Image.fromarray(pixels(40, 40, 3)), image], [0, 3])[1]
    assert again.tobytes() == protected.tobytes()
