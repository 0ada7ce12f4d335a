# %% [markdown]
# # An album that grows
#
# What the commands `keygen`, `protect` and `verify` do, on crops of scikit-learn's two photographs. For your own album
# type the printed commands into a terminal.

# %%
import tempfile
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_images

from unlearnable_transforms.cli.main import main

place = Path(tempfile.mkdtemp())
photos, protected, key = place / "photos", place / "protected", place / "my.key"


def write(number: int, width: int, height: int) -> None:
    """One photograph of each of two things, each in its own subfolder."""
    for thing, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        (photos / thing).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[:height, :width]).save(photos / thing / f"{number}.jpg", quality=92)


def unlearnable(*arguments: str | Path) -> int:
    print("\n$ unlearnable", *(str(each).replace(f"{place}/", "") for each in arguments))
    return main([str(each) for each in arguments])


# %% [markdown]
# ## 1. A key, once
#
# Back it up with your originals, and never publish it.

# %%
assert unlearnable("keygen", key) == 0

# %% [markdown]
# ## 2. Protect the album
#
# Each subfolder is changed in its own way. `--format auto` keeps JPEG files JPEG. `--opt-out` writes into each file
# that AI must not be trained on it.

# %%
write(0, 640, 427)
write(1, 320, 427)
protect = ("protect", photos, protected, "--key", key, "--format", "auto", "--opt-out", "--workers", "1")
assert unlearnable(*protect) == 0

# %% [markdown]
# ## 3. New photographs: the same command again
#
# What was protected before stays byte for byte.

# %%
before = {path: path.read_bytes() for path in protected.rglob("*.jpg")}
write(2, 300, 200)
assert unlearnable(*protect) == 0
assert all(path.read_bytes() == data for path, data in before.items())
print(len(before), "files as they were,", len(list(protected.rglob("*.jpg"))) - len(before), "new")

# %% [markdown]
# ## 4. Is the album whole?
#
# An original that got among the protected files is found.

# %%
assert unlearnable("verify", protected) == 0
(protected / "china" / "oops.jpg").write_bytes((photos / "china" / "0.jpg").read_bytes())
assert unlearnable("verify", protected) == 1
