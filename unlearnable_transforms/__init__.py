"""Unlearnable examples as data-set transforms: protect pictures from being trained on without consent.

Names are imported when they are first used, so that ``import unlearnable_transforms`` costs little.
"""

import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_EXPORTS = {
    "Key": "key",
    "UnlearnableError": "errors",
    "UnlearnableWarning": "errors",
    "SampleError": "sample",
    "Poison": "poisons.base",
    "NotFittedError": "poisons.base",
    "UnchangedWarning": "poisons.base",
    "Chain": "poisons.chain",
    "FitWarning": "poisons.fitted",
    "NoiseError": "noise.table",
    "list_poisons": "poisons",
    "get_poison": "poisons",
    "ProtectedDataset": "adapters.torchvision",
    "protect": "protection.protect",
    "auto_labels": "secret.labels",
    "publish": "publishing.hub",
    "audit": "auditing.audit",
    "Audit": "auditing.audit",
    "unlock": "protection.unlock",
    "UnlockWarning": "protection.unlock",
    "evaluate": "evaluation.evaluate",
    "Report": "evaluation.report",
    "recommended": "evaluation.recommended",
    "robust_accuracy": "evaluation.robust",
    "list_defenses": "defenses",
    "get_defense": "defenses",
    "list_victims": "victims",
}
_MODULES = {"albumentations": "adapters.albumentations", "ray": "adapters.ray", "theory": "theory"}

if TYPE_CHECKING:
    from . import theory as theory
    from .adapters import albumentations as albumentations
    from .adapters import ray as ray
    from .adapters.torchvision import ProtectedDataset as ProtectedDataset
    from .auditing.audit import Audit as Audit
    from .auditing.audit import audit as audit
    from .defenses import get_defense as get_defense
    from .defenses import list_defenses as list_defenses
    from .errors import UnlearnableError as UnlearnableError
    from .errors import UnlearnableWarning as UnlearnableWarning
    from .evaluation.evaluate import evaluate as evaluate
    from .evaluation.recommended import recommended as recommended
    from .evaluation.report import Report as Report
    from .evaluation.robust import robust_accuracy as robust_accuracy
    from .key import Key as Key
    from .noise.table import NoiseError as NoiseError
    from .poisons import get_poison as get_poison
    from .poisons import list_poisons as list_poisons
    from .poisons.ar import ARPoison as ARPoison
    from .poisons.aue import AUEPoison as AUEPoison
    from .poisons.bait import BAITPoison as BAITPoison
    from .poisons.base import NotFittedError as NotFittedError
    from .poisons.base import Poison as Poison
    from .poisons.base import UnchangedWarning as UnchangedWarning
    from .poisons.chain import Chain as Chain
    from .poisons.cuda import CUDAPoison as CUDAPoison
    from .poisons.em import EMPoison as EMPoison
    from .poisons.fitted import FitWarning as FitWarning
    from .poisons.hypo import HYPOPoison as HYPOPoison
    from .poisons.lsp import LSPPoison as LSPPoison
    from .poisons.ops import OPSPoison as OPSPoison
    from .poisons.pil import PILPoison as PILPoison
    from .poisons.rem import REMPoison as REMPoison
    from .poisons.sem import SEMPoison as SEMPoison
    from .poisons.tap import TAPPoison as TAPPoison
    from .poisons.uc import UCPoison as UCPoison
    from .protection.protect import protect as protect
    from .protection.unlock import UnlockWarning as UnlockWarning
    from .protection.unlock import unlock as unlock
    from .publishing.hub import publish as publish
    from .sample import SampleError as SampleError
    from .secret.labels import auto_labels as auto_labels
    from .victims import list_victims as list_victims


def _methods() -> dict[str, str]:
    """The class of every method and the module of its file: found by reading, since importing takes long."""
    files = sorted(Path(__file__).with_name("poisons").glob("*.py"))
    registered = re.compile(r"^@register\(.*\)\nclass (\w+)", re.MULTILINE)
    return {name: f"poisons.{file.stem}" for file in files for name in registered.findall(file.read_text("utf-8"))}


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return sorted({"__version__", *_EXPORTS, *_MODULES, *_methods()})
    if name in _EXPORTS:
        value = getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    elif name in _MODULES:
        value = import_module(f".{_MODULES[name]}", __name__)
    elif not name.startswith("_") and name in (methods := _methods()):
        value = getattr(import_module(f".{methods[name]}", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__getattr__("__all__")))
