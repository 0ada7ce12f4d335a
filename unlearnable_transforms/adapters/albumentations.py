"""albumentations: protection as an op in a Compose."""

import os
from typing import Any

import numpy as np

try:
    import albumentations as A
except ImportError as error:
    raise ImportError(
        "albumentations is not installed: pip install 'unlearnable-transforms[albumentations]'"
    ) from error

from ..key import Key
from ..poisons import get_poison
from ..poisons.base import Poison
from ..poisons.chain import Chain

KEY_FILE_VARIABLE = "UNLEARNABLE_KEY_FILE"


class Protect(A.ImageOnlyTransform):
    """Protect the picture of a sample; put it first, before any random op, and not inside OneOf or SomeOf.

    ``A.Compose([Protect(poison)])(image=image, label=label)``; also ``images=`` with a label each.

    ``to_dict`` stores the method, its public arguments and the key's fingerprint, never the key. ``from_dict`` takes
    the key from the file named by the environment variable ``UNLEARNABLE_KEY_FILE`` and checks its fingerprint.

    Args:
        poison: a fitted protection method.
        label_key: name of the argument of the Compose call that holds the label.
        p: 1.0; anything less would let some pictures out unprotected and is refused.

    Targets:
        image, images

    Image types:
        uint8
    """

    def __init__(self, poison: Poison | dict[str, Any], label_key: str = "label", p: float = 1.0) -> None:
        super().__init__(p=p)
        if p != 1.0:
            raise ValueError(
                f"p={p} would leave pictures unprotected at random; use p=1.0 (for a part: ut.protect with fraction=)"
            )
        if isinstance(poison, dict):
            poison = restore(poison)
        if not isinstance(poison, Poison):
            raise TypeError(f"poison is a {type(poison).__name__}, not a protection method")
        self.poison = poison
        self.label_key = label_key

    @property
    def targets_as_params(self) -> list[str]:
        return [self.label_key]

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        return {"class_label": data[self.label_key]}

    def apply(self, img: np.ndarray, class_label: Any, **params: Any) -> np.ndarray:
        return self.poison(img, class_label)[0]

    def apply_to_images(self, images: np.ndarray, class_label: Any, **params: Any) -> np.ndarray:
        return self.poison.apply(np.asarray(images), class_label)

    def get_transform_init_args(self) -> dict[str, Any]:
        return {"poison": self.poison.public_config(fitted=True), "label_key": self.label_key}


def restore(config: dict[str, Any]) -> Poison:
    """The method that ``public_config(fitted=True)`` described, with the key from ``UNLEARNABLE_KEY_FILE``.

    Raises:
        ValueError: no key file is named, its fingerprint is another, the version differs, or the arguments are secret.
    """
    method = get_poison(config["method"])
    if config["version"] != method.version:
        raise ValueError(
            f"the pipeline was made with version {config['version']} of {config['method']!r}, this library has "
            f"{method.version}: the pixels would differ"
        )
    if issubclass(method, Chain):
        return Chain(map(restore, config["arguments"]["links"]))
    if config["key_fingerprint"] is None:
        raise ValueError("the pipeline was made with explicit secret filters, which are not stored: build it in code")
    path = os.environ.get(KEY_FILE_VARIABLE)
    if not path:
        raise ValueError(f"set {KEY_FILE_VARIABLE} to the key file of fingerprint {config['key_fingerprint']}")
    key = Key.load(path)
    if key.fingerprint != config["key_fingerprint"]:
        raise ValueError(
            f"{path} holds the key {key.fingerprint}, but the pipeline was made with {config['key_fingerprint']}"
        )
    return method(key=key, **config["arguments"])
