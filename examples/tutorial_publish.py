# %% [markdown]
# # From CIFAR-10 on the Hub to a published protected set
#
# As it is, this runs offline on handwritten digits. `DATA=cifar10 python tutorial_publish.py` takes CIFAR-10 from the
# Hub; step 3 is then six trainings of a minute or two each on two cores.

# %%
import os
import tempfile
from pathlib import Path

from samples import HUB, load

import unlearnable_transforms as ut
from unlearnable_transforms.cli.main import main as unlearnable

name = os.environ.get("DATA", "digits")
train, test = load(name, rows=400)
folder = Path(tempfile.mkdtemp())
print(train)

# %% [markdown]
# ## 1. A key for this release
#
# Keep the master key where your backups are, and never publish it. Each release gets another key, derived from it.

# %%
master = ut.Key.generate()
master.save(folder / "master.key")
key = master.derive("user/name")

# %% [markdown]
# ## 2. Protect
#
# CUDA needs no fit. For small images `ut.recommended(32).poison(key)` has a better worst case; its fit takes minutes.

# %%
poison = ut.CUDAPoison(key=key)
protected = ut.protect(train, poison)

# %% [markdown]
# ## 3. Measure, so that the card can say it
#
# The figure that counts is the highest over the defenses. On digits of a few pixels it says little: look at the form.

# %%
report = ut.evaluate(
    clean=train,
    test=test,
    poisons=[poison],
    defenses=["erm", "jpeg:quality=10"],
    recipe="digits" if name == "digits" else "screen",
    samples=0,  # no pictures in the report: a clean one beside a protected one is a pair
    progress=False,
)
print(report)

# %% [markdown]
# ## 4. Publish into a folder, and look at it
#
# All checks run before anything is written. Without `folder=` the same call uploads to the Hub, as a private repository
# with `private=True`. Everybody has the originals of CIFAR-10: such a release is for study, and its card says so.

# %%
published = ut.publish(
    protected, "user/name", poison=poison, report=report, originals_public=name in HUB, folder=folder / "ready"
)
print("coverage:", published.coverage)
for path in sorted(published.folder.rglob("*")):
    if path.is_file():
        print(f"{path.stat().st_size:9,} bytes  {path.relative_to(published.folder)}")

# %% [markdown]
# ## 5. Check it, as anybody can

# %%
assert unlearnable(["verify", str(published.folder)]) == 0
