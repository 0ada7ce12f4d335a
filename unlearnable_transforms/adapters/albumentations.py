"""albumentations: protection as an op in a Compose."""

import os
import sys
from types import FrameType
from typing import Any

import numpy as np

try:
    import albumentations as A
except ImportError as error:
    raise ImportError(
        "albumentations is not installed: pip install 'unlearnable-transforms[albumentations]'"
    ) from error

from ..data.beside import row_images
from ..data.columns import refuse_second_image
from ..errors import UsageError, UsageTypeError
from ..key import Key
from ..poisons import get_poison
from ..poisons.base import Poison
from ..poisons.chain import Chain

KEY_FILE_VARIABLE = "UNLEARNABLE_KEY_FILE"
_BESIDE = ("mask", "masks", "mask3d", "masks3d", "bboxes", "keypoints")  # what may come with an image


class Protect(A.ImageOnlyTransform):
    """Protect the image of a sample; put it first, before any random op.

    ``A.Compose([Protect(poison)])(image=image, label=label)``; also ``images=`` with a label each.

    Protection is never left to chance: ``p`` below 1, of the op or of a container around it, and the containers that
    choose among their ops (``OneOf``, ``SomeOf``, ``RandomOrder``, ``OneOrOther``) are refused, when the pipeline is
    made or, if it is changed later, at the next image that reaches the op. A replayed op asks for the label of the
    image at hand.

    A second image in the sample that no target of the pipeline names would stay unprotected: it is refused, unless the
    poison has an ``image_key``.

    ``to_dict`` stores the method, its public arguments and the key's fingerprint, never the key. ``from_dict`` takes
    the key from the file named by the environment variable ``UNLEARNABLE_KEY_FILE`` and checks its fingerprint.

    Args:
        poison: a fitted protection method.
        label_key: name of the argument of the Compose call that holds the label.
        p: 1.0; anything less would let some images out unprotected and is refused.

    Raises:
        UsageError: ``p`` is below 1, or a container would run the op only sometimes.
        UsageTypeError: ``poison`` is no protection method.

    Targets:
        image, images

    Image types:
        uint8
    """

    def __init__(self, poison: Poison | dict[str, Any], label_key: str = "label", p: float = 1.0) -> None:
        super().__init__(p=p)
        if isinstance(poison, dict):
            poison = restore(poison)
        if not isinstance(poison, Poison):
            raise UsageTypeError(f"poison is a {type(poison).__name__}, not a protection method")
        self.poison = poison
        self.label_key = label_key

    @property
    def p(self) -> float:
        return 1.0

    @p.setter
    def p(self, value: float) -> None:
        if value != 1:
            raise UsageError(
                f"p={value} would leave images unprotected at random; use p=1.0 (for a part: ut.protect with fraction=)"
            )

    def set_random_seed(self, seed: int | None) -> None:
        """What every container calls when it is made, through the containers inside it."""
        _refuse_containers()
        super().set_random_seed(seed)

    def __call__(self, *args: Any, force_apply: bool = False, **data: Any) -> Any:
        _refuse_containers()
        if self.poison.image_key is None:
            known = {*self.available_keys, *_BESIDE, self.label_key, self.save_key}
            refuse_second_image("image", row_images(data, None, known))
        self.replay_mode = False  # a replay would take the class of the recorded image for this one
        return super().__call__(*args, force_apply=force_apply, **data)

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


def _refuse_containers() -> None:
    """Refuse containers that would run the op only sometimes. An op does not know them, the frames of their calls do.

    Raises:
        UsageError: names the container.
    """
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        container = frame.f_locals.get("self") if frame.f_code.co_varnames[:1] == ("self",) else None
        if isinstance(container, A.BaseCompose):
            always = isinstance(container, A.Compose | A.Sequential)
            if not always or container.p < 1:
                how = f"A.{type(container).__name__}" + (f"(p={container.p})" if always else "")
                raise UsageError(
                    f"{how} would leave images unprotected at random: put Protect into the outer A.Compose, p=1, "
                    "before the other ops (for a part of the images: ut.protect with fraction=)"
                )
        frame = frame.f_back


def restore(config: dict[str, Any]) -> Poison:
    """The method that ``public_config(fitted=True)`` described, with the key from ``UNLEARNABLE_KEY_FILE``.

    Raises:
        UsageError: no key file is named, its fingerprint is another, the version differs, or the arguments are secret.
    """
    method = get_poison(config["method"])
    if config["version"] != method.version:
        raise UsageError(
            f"the pipeline was made with version {config['version']} of {config['method']!r}, this library has "
            f"{method.version}: the pixels would differ"
        )
    if issubclass(method, Chain):
        return Chain(map(restore, config["arguments"]["links"]))
    if config["key_fingerprint"] is None:
        raise UsageError("the pipeline was made with explicit secret filters, which are not stored: build it in code")
    path = os.environ.get(KEY_FILE_VARIABLE)
    if not path:
        raise UsageError(f"set {KEY_FILE_VARIABLE} to the key file of fingerprint {config['key_fingerprint']}")
    key = Key.load(path)
    if key.fingerprint != config["key_fingerprint"]:
        raise UsageError(
            f"{path} holds the key {key.fingerprint}, but the pipeline was made with {config['key_fingerprint']}"
        )
    return method(key=key, **config["arguments"])
