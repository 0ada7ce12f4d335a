# %% [markdown]
# # A comparison study with a plot
#
# Two methods under three kinds of training, beside clean images. As it is, this runs offline on handwritten digits,
# which say little about methods. `DATA=cifar10 OUT=study python tutorial_study.py` takes CIFAR-10 from the Hub, adds
# controls and seeds, and makes 45 trainings of a minute or two each on two cores. Stopped and started with the same
# `OUT`, it goes on.

# %%
import os
import tempfile
from pathlib import Path

from matplotlib.figure import Figure
from samples import load

import unlearnable_transforms as ut

name = os.environ.get("DATA", "digits")
folder = Path(os.environ.get("OUT", tempfile.mkdtemp()))
small = name == "digits"
train, test = load(name, side=8, rows=300)

# %% [markdown]
# ## 1. Methods, defenses, seeds
#
# Keys of a study have fixed names, so that anybody can make the same images again. Keys and training seeds are varied
# separately. The control of a method does the same damage to images without telling classes apart.

# %%
methods = {"CUDA": ut.CUDAPoison(key=ut.Key.public("study-0")), "LSP": ut.LSPPoison(key=ut.Key.public("study-0"))}
defenses = ["erm", "grayscale", "jpeg:quality=10"]
report = ut.evaluate(
    clean=train,
    test=test,
    poisons=methods,
    defenses=defenses,
    seeds=[0] if small else [0, 1, 2],
    recipe="digits" if small else "screen",
    controls=not small,
    out=folder,
    progress=False,
)
print(report)

# %% [markdown]
# ## 2. A plot
#
# A defense costs accuracy on clean images, too: each group of bars begins with them. The highest bar of a method is its
# figure.

# %%
sets = ["clean", *methods]
columns = list(dict.fromkeys(cell["defense"]["label"] for cell in report.cells))  # the defenses as the table names them
figure = Figure(figsize=(7, 3.2), layout="constrained")
axes = figure.subplots()
for number, row in enumerate(sets):
    heights = [100 * report.accuracy(row, column) for column in columns]
    places = [place + number / (len(sets) + 1) for place in range(len(columns))]
    axes.bar_label(axes.bar(places, heights, 1 / (len(sets) + 1), label=row), fmt="%.0f", fontsize=8)
axes.set_xticks([place + 1 / (len(sets) + 1) for place in range(len(columns))], columns)
axes.set_ylabel("accuracy on clean test images, %")
axes.set_ylim(0, 110)
axes.legend(ncols=len(sets), frameon=False)
figure.savefig(folder / "study.png", dpi=120)

# %% [markdown]
# ## 3. A page to read, and the figures as JSON

# %%
report.save(folder)
print(sorted(path.name for path in folder.iterdir() if path.is_file() and path.suffix in (".html", ".png")))
