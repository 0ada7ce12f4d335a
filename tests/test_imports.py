"""What a command has to import before it starts: seconds of processor time, again in each worker."""

import subprocess
import sys

PROTECTING = "import unlearnable_transforms.cli.protect, unlearnable_transforms.protection.protect"


def test_protecting_imports_no_torchvision():
    """It doubles the start: 3.3 s of processor time beside torch's 2.1 s."""
    script = (
        f"import sys; {PROTECTING}; from unlearnable_transforms import CUDAPoison; "
        "print([name for name in ('torchvision', 'scipy', 'sklearn', 'albumentations', 'timm') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_tv_tensor_stays_one_where_torchvision_comes_later():
    """The poison was made before torchvision was imported."""
    script = """
import torch
from unlearnable_transforms import CUDAPoison, Key
poison = CUDAPoison(key=Key.public("late"))
plain = torch.full((3, 16, 16), 99, dtype=torch.uint8)
poison(plain, 0)
from torchvision import tv_tensors
single, _ = poison(tv_tensors.Image(plain), 0)
batch, _ = poison(tv_tensors.Image(plain[None]), torch.tensor([0]))
print(type(single).__name__, type(batch).__name__, type(poison(plain, 0)[0]).__name__)
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True)
    assert answer.stdout.split() == ["Image", "Image", "Tensor"]
