# %% [markdown]
# # A defense of your own
#
# CUDA blurs each class with its own filter. Does sharpening undo it? Offline on handwritten digits, which are too small
# to answer for photographs.

# %%
import torch
import torch.nn.functional as F
from samples import load

import unlearnable_transforms as ut
from unlearnable_transforms.defenses.base import Defense, Setting, register_defense
from unlearnable_transforms.params import param

train, test = load("digits", side=8, rows=300)

# %% [markdown]
# ## 1. One class, one hook
#
# `prepare` gets all training images once, before the training. Other hooks change each batch, the loss or the test
# images. A parameter is declared once, with its range: `sharpen:amount=2` is then a name that `evaluate` takes.


# %%
@register_defense("sharpen")
class Sharpen(Defense):
    """Unsharp masking: each image plus ``amount`` times what a 3 x 3 mean takes from it."""

    amount: float = param("of the difference that is added", default=1.0, low=0.0, high=8.0)

    def prepare(self, images: torch.Tensor, labels: torch.Tensor, setting: Setting) -> torch.Tensor:
        """All training images, uint8 (N, 3, H, W) -> the same."""
        pixels = images.float()
        blurred = F.avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)
        return (pixels + self.amount * (pixels - blurred)).round().clamp(0, 255).to(torch.uint8)


# %% [markdown]
# ## 2. Measure it beside plain training
#
# On clean images, too: a defense that costs more there than it recovers is no gain for a trainer. Names with ` + `
# between them are one defense.

# %%
report = ut.evaluate(
    clean=train,
    test=test,
    poisons={"CUDA": ut.CUDAPoison(key=ut.Key.public("docs"))},
    defenses=["erm", "sharpen", "sharpen:amount=2 + grayscale"],
    recipe="digits",
    controls=False,
    progress=False,
)
print(report)

# %% [markdown]
# ## 3. Is it worth it?
#
# On digits of 8 x 8 pixels, whose filters have nine entries, sharpening gives back most of what CUDA took. Whether it
# does so on your images you only see by measuring them.

# %%
for column in dict.fromkeys(cell["defense"]["label"] for cell in report.cells):  # as the table names them
    clean, protected = (100 * report.accuracy(row, column) for row in ("clean", "CUDA"))
    print(f"{column:30} clean {clean:5.1f} %   CUDA {protected:5.1f} %")
