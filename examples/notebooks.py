"""The notebooks of the tutorials, made from their scripts.

python examples/notebooks.py            # do they agree?
python examples/notebooks.py --write    # make them again

A script is divided by lines ``# %%`` into cells, by ``# %% [markdown]`` into cells of text, as editors know it. The
notebooks hold no outputs.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent


def cell(number: int, head: str, lines: list[str]) -> dict:
    """One cell of a notebook, format 4.5."""
    if head == "[markdown]":
        return {
            "cell_type": "markdown",
            "id": f"cell-{number}",
            "metadata": {},
            "source": source([line.removeprefix("#").removeprefix(" ") for line in lines]),
        }
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": f"cell-{number}",
        "metadata": {},
        "outputs": [],
        "source": source(lines),
    }


def source(lines: list[str]) -> list[str]:
    return "\n".join(lines).strip("\n").splitlines(keepends=True)


def notebook(script: str) -> str:
    """The text of the notebook of a script."""
    cells: list[tuple[str, list[str]]] = []
    for line in script.splitlines():
        if line.startswith("# %%"):
            cells.append((line.removeprefix("# %%").strip(), []))
        else:
            cells[-1][1].append(line)
    content = {
        "cells": [cell(number, *each) for number, each in enumerate(cells)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def main(write: bool) -> int:
    """Write the notebooks, or name those that do not agree with their scripts; returns how many these are."""
    differing = 0
    for script in sorted(HERE.glob("tutorial_*.py")):
        target, text = script.with_suffix(".ipynb"), notebook(script.read_text(encoding="utf-8"))
        if write:
            target.write_text(text, encoding="utf-8")
        elif not target.exists() or target.read_text(encoding="utf-8") != text:
            print(f"{target.name} is not what {script.name} says: python examples/notebooks.py --write")
            differing += 1
    return differing


if __name__ == "__main__":
    sys.exit(main(write="--write" in sys.argv[1:]))
