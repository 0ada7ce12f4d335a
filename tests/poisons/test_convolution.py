"""Both ways to convolve: byte for byte the plain one in float64, exact, and so under every setting of torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import pixels

from unlearnable_transforms import CUDAPoison
from unlearnable_transforms.poisons.convolution import GRID, convolve


def three_ways(images: torch.Tensor, weights: torch.Tensor) -> list[torch.Tensor]:
    """Folded, image by image in float64, and by Fourier transform."""
    pad = weights.shape[-1] // 2
    pairs = zip(images.double()[:, :, None], weights.double(), strict=True)
    plain = torch.stack([F.conv2d(image, weight[None, None], padding=pad)[:, 0].float() for image, weight in pairs])
    return [convolve(images, weights, "folded"), plain, convolve(images, weights, "fft")]


@pytest.mark.parametrize("shape", [(8, 8), (32, 32), (97, 61), (61, 97), (600, 600)], ids=str)
@pytest.mark.parametrize("size", [3, 5, 9, 13])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_ways_agree_byte_for_byte(key, shape, size, channels):
    count = 1 if shape == (600, 600) else 3
    images = torch.from_numpy(pixels(count, channels, *shape))
    images[0] = 255  # the largest sums
    poison = CUDAPoison(key=key, kernel_size=size)
    weights = torch.from_numpy(poison.kernels(range(count), image_size=shape))
    sums = three_ways(images, weights)
    assert sums[0].dtype == torch.float32
    assert sums[0].equal(sums[1])
    assert sums[0].equal(sums[2])
    assert (sums[0] * GRID % 1).eq(0).all()  # exact: on the grid, below 2**24 steps of it
    assert sums[0].max() * GRID < 2**24
    peaks = sums[0].flatten(1).amax(1).view(-1, 1, 1, 1)
    assert poison.apply(images, range(count)).equal((sums[0] * (255 / peaks)).round().byte())


@pytest.mark.parametrize("shape", [(1, 4200), (4201, 1), (65, 64), (131, 70), (17, 300)], ids=str)
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("channels", [1, 3])
def test_backends_agree_where_pictures_are_cut_into_strips(key, shape, count, channels):
    images = torch.from_numpy(pixels(count, channels, *shape))
    for size in (3, 9):
        weights = torch.from_numpy(CUDAPoison(key=key, kernel_size=size).kernels(range(count), image_size=shape))
        sums = three_ways(images, weights)
        assert sums[0].is_contiguous()
        assert sums[0].shape == images.shape
        assert sums[0].equal(sums[1])
        assert sums[0].equal(sums[2])


def test_the_heaviest_filters_are_still_exact():
    weights = np.random.default_rng(0).random((3, 13, 13))
    weights *= 16 / weights.sum((1, 2), keepdims=True) * (1 - 1e-4)
    poison = CUDAPoison(kernels=dict(enumerate(weights)))
    table = torch.from_numpy(poison.kernels(range(3)))
    images = torch.full((3, 3, 40, 40), 255, dtype=torch.uint8)
    sums = three_ways(images, table)
    assert sums[0].equal(sums[1])
    assert sums[0].equal(sums[2])
    assert 4050 < sums[0].max() < 4096


class Setting:
    """Sets a global of torch for a while."""

    def __init__(self, get, set_, value):
        self.get, self.set, self.value = get, set_, value

    def __enter__(self):
        self.before = self.get()
        self.set(self.value)

    def __exit__(self, *_):
        self.set(self.before)


def precision(module_path: str, value: str) -> Setting:
    """A setting ``fp32_precision`` of torch 2.9 and later."""
    module = torch.backends
    for name in module_path.split("."):
        module = getattr(module, name, None) if name else module
    if not hasattr(module, "fp32_precision"):
        pytest.skip("this torch has no fp32_precision")
    return Setting(lambda: "none", lambda v: setattr(module, "fp32_precision", v), value)


SETTINGS = {
    "1 thread": lambda: Setting(torch.get_num_threads, torch.set_num_threads, 1),
    "3 threads": lambda: Setting(torch.get_num_threads, torch.set_num_threads, 3),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "matmul precision medium": lambda: Setting(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
    ),
    "convolutions in bf16": lambda: precision("mkldnn.conv", "bf16"),
    "oneDNN in bf16": lambda: precision("mkldnn", "bf16"),
    "everything in bf16": lambda: precision("", "bf16"),
    "oneDNN off": lambda: torch.backends.mkldnn.flags(enabled=False),
    "float64 by default": lambda: Setting(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "float16 by default": lambda: Setting(torch.get_default_dtype, torch.set_default_dtype, torch.float16),
    "another device by default": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "gradients": torch.enable_grad,
    "deterministic": lambda: Setting(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    ),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_settings_of_torch_do_not_matter(key, setting):
    # One channel alone takes another kernel; the last one gets halos.
    shapes = [(1, 64, 64, 1), (1, 40, 40, 3), (20, 32, 32, 3), (2, 97, 61, 3), (2, 150, 131, 3)]
    batches = [(pixels(*shape), range(shape[0])) for shape in shapes]
    tensors = [torch.from_numpy(pixels(3, 3, 32, 32))]
    sizes = (None, 5, 13)
    before = [CUDAPoison(key=key, kernel_size=k).apply(*batch) for k in sizes for batch in batches]
    before_tensors = [CUDAPoison(key=key).apply(batch, [0, 1, 2]) for batch in tensors]
    enabled = torch.backends.mkldnn.enabled
    with SETTINGS[setting]():
        inside = torch.backends.mkldnn.enabled
        after = [CUDAPoison(key=key, kernel_size=k).apply(*batch) for k in sizes for batch in batches]
        assert torch.backends.mkldnn.enabled == inside
        if "device" not in setting:  # asking for the values of a tensor is not for meta
            after_tensors = [CUDAPoison(key=key).apply(batch, [0, 1, 2]) for batch in tensors]
            weights = torch.from_numpy(CUDAPoison(key=key, kernel_size=5).kernels([1], image_size=32))
            sums = three_ways(tensors[0][:1], weights)
            assert sums[0].equal(sums[1])
            assert sums[0].equal(sums[2])
            assert all(a.equal(b) for a, b in zip(before_tensors, after_tensors, strict=True))
    assert all((a == b).all() for a, b in zip(before, after, strict=True))
    assert torch.backends.mkldnn.enabled == enabled


def test_bf16_would_change_bytes_here_if_it_were_let():
    """The test above means something only where torch really has bf16 convolutions."""
    if not hasattr(torch.backends, "fp32_precision") or not torch.cpu.get_capabilities().get("amx_bf16", False):
        pytest.skip("this torch cannot, or this machine (without AMX) does not, multiply float32 as bf16")
    image, weights = torch.rand(1, 1, 64, 64), torch.rand(1, 1, 5, 5)
    exact = torch.nn.functional.conv2d(image, weights)
    with precision("mkldnn.conv", "bf16"):
        assert not torch.nn.functional.conv2d(image, weights).equal(exact)
