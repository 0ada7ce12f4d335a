"""One picture file in, one protected picture file out: what the workers of a folder do."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.codec import Codec, checksum, measure
from ..data.image import open_bytes
from ..files import whole
from ..poisons.base import Poison
from ..poisons.fraction import is_chosen
from ..sample import sample_id


class SourceChanged(ValueError):
    """A source file is not what it was when the run began."""


@dataclass(frozen=True)
class Task:
    """One picture to write.

    Attributes:
        path, target: below the source and the output folder.
        token: the class; None for a picture of a kept split, which is encoded anew and not protected.
        size, mtime: what the file was when the run began.
        measure: whether to measure how far the protected picture is from the clean one.
    """

    path: str
    target: str
    token: str | None
    size: int
    mtime: int
    measure: bool


@dataclass(frozen=True)
class FileWorker:
    """Writes protected pictures. What it returns is small: a record for the journal a picture."""

    source: Path
    out: Path
    poison: Poison
    codec: Codec
    fraction: float

    def __call__(self, tasks: list[Task]) -> list[dict[str, Any]]:
        return [self._write(task) for task in tasks]

    def _write(self, task: Task) -> dict[str, Any]:
        record: dict[str, Any] = {"path": task.path, "size": task.size, "mtime": task.mtime}
        try:
            with open(self.source / task.path, "rb") as file:
                status = os.fstat(file.fileno())
                data = file.read()
        except OSError as error:
            return {**record, "status": "failed", "reason": error.strerror or str(error)}
        if (status.st_size, status.st_mtime_ns) != (task.size, task.mtime):
            raise SourceChanged(
                f"{self.source / task.path} changed while it was to be protected: put back what it was and run the "
                "same command again, or start with an empty output folder"
            )
        try:
            encoded, facts = self._protect(data, task)
        except (TypeError, ValueError) as error:
            return {**record, "status": "failed", "reason": str(error)}
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "allocate memory" not in str(error):  # as torch says it
                raise
            return {**record, "status": "failed", "reason": "the image does not fit into memory: make it smaller"}
        target = self.out / task.target
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole(target) as temporary:
            temporary.write_bytes(encoded)
        return {**record, **facts, "bytes": len(encoded), "checksum": checksum(encoded)}

    def _protect(self, data: bytes, task: Task) -> tuple[bytes, dict[str, Any]]:
        """The new file's bytes, and what the journal is to know about it."""
        stored = open_bytes(data)
        opened = self.codec.prepare(stored)
        clean = opened.colour
        if task.token is None:
            return self.codec.encode(opened.close(clean)), {"status": "kept"}
        clean_id = sample_id(stored.colour, task.token)
        changed, status = clean, "left"
        if is_chosen(self.poison.key, clean_id, self.fraction):
            (changed,) = self.poison.protect_arrays([clean], [task.token], [clean_id])
            status = "unchanged" if opened.unprotected_by(changed) else "protected"
        changed_id = sample_id(changed, task.token)
        encoded = self.codec.encode(opened.close(changed))
        shown = changed
        if self.codec.format == "jpeg":  # others will find the picture by the pixels that they decode
            shown = open_bytes(encoded).colour
            changed_id = sample_id(shown, task.token)
        facts: dict[str, Any] = {
            "clean_id": clean_id.hex(),
            "protected_id": changed_id.hex(),
            "token": task.token,
            "status": status,
            "note": self.poison.unlock_note(clean, changed, task.token) if status == "protected" else None,
        }
        if task.measure and status == "protected":
            facts["measured"] = measure(clean, shown)
        return encoded, facts
