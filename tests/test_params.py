"""Parameters are declared once: constructor, checks, arguments, texts and tables follow; what fit learns is apart."""

import copy
import importlib.util
import inspect
import json
import pickle
from typing import Any, Literal

import numpy as np
import pytest
from conftest import KEY, NUMBERS, POISONS, ROOT, pixels, run_python

import unlearnable_transforms as ut
from unlearnable_transforms.params import (
    UNSET,
    Parameters,
    argument_rows,
    learnt,
    param,
    read_arguments,
    split_spec,
    table,
)
from unlearnable_transforms.poisons.base import decisive

IMAGES = pixels(5, 12, 10, 3)


class Example(Parameters):
    """An example."""

    eps: float = param("strength", default=8 / 255, low=1 / 255, high=32 / 255, unit="in units of 1 = white")
    steps: int | None = param("how many", default=None, low=1)
    share: float = param("a part", default=1.0, above=0, high=1)
    side: int = param("of a square", default=3, odd=True, low=3)
    kind: Literal["a", "b"] = param("which", default="a")
    fast: bool = param("whether", default=False, omit=True)
    cuts: tuple[float, ...] = param("where", default=(0.5,), low=0, high=1)
    hidden: Any = param("not to be shown", default=None, secret="things")
    device: str | None = param("of the work", default=None, decides="work")
    column: str | None = param("which column", default=None, decides="columns")
    rate: float = param("from a preset", default=UNSET, omit=True)
    found: Any = learnt("what fit has learnt", default=None)
    data: Any = param("fit at once", default=None, then="fit", decides="work")

    def fit(self, data):
        self.found = sum(data)
        return self


def test_arguments_are_what_decides_the_result_and_what_is_learnt_is_none():
    example = Example(eps=np.float32(0.0625), steps=np.int64(7), cuts=[0.1, 0.2], hidden=[1, 2], device="x", column="y")
    assert example.arguments() == {
        "eps": 0.0625, "steps": 7, "share": 1.0, "side": 3, "kind": "a", "cuts": [0.1, 0.2], "hidden": [1, 2],
        "column": "y",
    }  # fmt: skip
    assert type(example.eps) is float
    assert type(example.steps) is int
    assert example.public_arguments()["hidden"] == "2 secret things"
    assert example.fitted_state() == {"found": None}
    fitted = Example(data=[1, 2])
    assert fitted.fitted_state() == {"found": 3}
    assert fitted.arguments() == Example().arguments()
    assert Example(fast=True, rate=0.5).arguments() == {**Example().arguments(), "fast": True, "rate": 0.5}
    with pytest.raises(TypeError, match="data= is what to learn from, found= what was learnt before: give one"):
        Example(data=[1], found=2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"eps": 8}, "eps is a number in [1/255, 32/255], in units of 1 = white, got 8"),
        ({"eps": float("nan")}, "eps is a number in [1/255, 32/255], in units of 1 = white, got nan"),
        ({"eps": None}, "eps is a number in [1/255, 32/255], in units of 1 = white, got None"),
        ({"eps": "8/255"}, "eps is a number in [1/255, 32/255], in units of 1 = white, got '8/255'"),
        ({"eps": True}, "eps is a number in [1/255, 32/255], in units of 1 = white, got True"),
        ({"steps": 0}, "steps is a whole number from 1, got 0"),
        ({"steps": 2.0}, "steps is a whole number from 1, got 2.0"),
        ({"share": 0}, "share is a number in (0, 1], got 0"),
        ({"share": float("inf")}, "share is a number in (0, 1], got inf"),
        ({"rate": float("inf")}, "rate is a number, got inf"),
        ({"side": 4}, "side is an odd whole number from 3, got 4"),
        ({"kind": "c"}, "kind is one of a, b, got 'c'"),
        ({"fast": 1}, "fast is true or false, got 1"),
        ({"cuts": [0.5, 2]}, "cuts is a number in [0, 1], got 2"),
        ({"cuts": 0.5}, "cuts is a list, each a number in [0, 1], got 0.5"),
        ({"device": 0}, "device is text, got 0"),
    ],
)
def test_every_check_has_the_same_words(given, message):
    with pytest.raises(ValueError) as caught:
        Example(**given)
    assert str(caught.value) == message


def test_the_signature_is_that_of_the_declaration():
    signature = inspect.signature(ut.SEMPoison)
    assert next(iter(signature.parameters)) == "key"
    assert signature.parameters["key"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert signature.parameters["steps"].kind is inspect.Parameter.KEYWORD_ONLY
    assert {"eps", "noise", "preset", "radius", "classes"} <= set(signature.parameters)
    assert "strength of" not in (ut.SEMPoison.__doc__ or "")
    assert "kernel_size: k, instead of strength" in inspect.getdoc(ut.CUDAPoison)
    with pytest.raises(TypeError, match="CUDAPoison: got an unexpected keyword argument 'kernel'"):
        ut.CUDAPoison(KEY, kernel=3)
    with pytest.raises(TypeError, match="too many positional arguments"):
        ut.CUDAPoison(KEY, 3)


def test_texts():
    assert split_spec("cuda") == [("cuda", {})]
    assert split_spec("cuda,sem") == [("cuda", {}), ("sem", {})]
    assert split_spec("sem:steps=2000,surrogate=resnet18") == [("sem", {"steps": "2000", "surrogate": "resnet18"})]
    both = [("cuda", {"strength": "strong"}), ("sem", {"steps": "5", "eps": "4/255"})]
    assert split_spec(" cuda:strength=strong > sem: steps = 5, eps=4/255") == both
    assert split_spec("cuda:strength=strong,sem:steps=5,eps=4/255") == both
    texts = {"eps": "4/255", "steps": "none", "share": "1", "kind": "b", "fast": "true", "cuts": "0.25+0.5"}
    assert read_arguments(Example, texts, "it") == {
        "eps": 4 / 255, "steps": None, "share": 1.0, "kind": "b", "fast": True, "cuts": (0.25, 0.5),
    }  # fmt: skip
    assert read_arguments(ut.PILPoison, {"augment": "none", "work_size": "none"}, "pil") == {
        "augment": "none", "work_size": None,
    }  # fmt: skip
    for texts, message in (
        ({"step": "5"}, r"it has no argument 'step': did you mean 'steps'\?; it has eps, steps"),
        ({"steps": "many"}, "steps is a whole number from 1, got 'many'"),
        ({"kind": "B"}, "kind is one of a, b, got 'B'"),
        ({"found": "3"}, "no argument 'found'"),
        ({"data": "photos"}, "no argument 'data'"),
    ):
        with pytest.raises(ValueError, match=message):
            read_arguments(Example, texts, "it")


def test_the_table_has_every_parameter():
    rows = {name: (rule, default) for name, rule, default, _ in argument_rows(Example)}
    assert list(rows) == list(Example.declared())
    assert rows["eps"] == ("a number in [1/255, 32/255], in units of 1 = white", "8/255")
    assert rows["cuts"] == ("a list, each a number in [0, 1]", "0.5")
    assert table(Example).splitlines()[2] == (
        "| `eps` | a number in [1/255, 32/255], in units of 1 = white | 8/255 | strength |"
    )


def test_the_site_shows_the_table_of_every_method():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    shown = hooks.on_page_markdown(page)
    assert "<!-- parameters" not in shown
    for name in ut.list_poisons():
        method = ut.get_poison(name)
        assert f"::: {method.__module__}.{method.__name__}\n\n{table(method)}\n" in shown


# ---- methods ----


@pytest.mark.parametrize("name", POISONS)
def test_what_fit_learns_is_no_argument_and_in_no_public_configuration(name):
    poison = POISONS[name][0]()
    links = getattr(poison, "links", [poison])
    for link in links:
        learned = {argument for argument, each in link.declared().items() if each.learnt}
        assert set(link.fitted_state()) == learned
        assert not learned & (set(link.arguments()) | set(link.public_config()["arguments"]))
        assert not {"data", "device", "key"} & set(link.arguments())
        assert learned <= set(link.public_config(fitted=True)["arguments"])
    assert decisive(poison.public_config()) == decisive(json.loads(json.dumps(poison.public_config(fitted=True))))


def test_methods_are_compared_by_what_changes_bytes():
    def config(**arguments):
        return ut.PILPoison(KEY, **arguments).public_config(fitted=True)

    assert decisive(config(noise="0" * 32, image_key="img")) == decisive(config())
    assert decisive(config(eps=4 / 255)) != decisive(config())
    assert decisive(config(classes=[0, 1])) != decisive(config())
    chain = ut.Chain([ut.CUDAPoison(KEY), ut.LSPPoison(KEY, known=[0, 1])])
    other = ut.Chain([ut.CUDAPoison(KEY), ut.LSPPoison(KEY, known=[0, 1, 2])])
    assert decisive(chain.public_config(fitted=True)) == decisive(other.public_config())
    assert "key_fingerprint" not in json.dumps(decisive(chain.public_config()))
    assert json.dumps(decisive(chain.public_config(), keys=True)).count(KEY.fingerprint) == 3
    for strange in ({}, {"method": ["cuda"], "arguments": {}}, {"method": "cuda", "arguments": [1]}):
        assert decisive(strange) == strange  # files of others
    strange = {"method": "chain", "arguments": {"links": [3, {"method": "nobody", "arguments": {"x": 1}}]}}
    assert decisive(strange) == strange


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy])
def test_a_copy_has_what_a_pickle_leaves_out(way):
    assert way(ut.EMPoison(KEY, device="cpu")).device == "cpu"
    chain = ut.Chain([ut.CUDAPoison(KEY), ut.SEMPoison(KEY, device="cpu")])
    assert chain.links[1].device == "cpu"
    again = way(chain)
    assert again.links[1].device == "cpu"
    assert again.links[1] is not chain.links[1]


def test_unpickling_does_not_run_the_constructor(monkeypatch):
    data = pickle.dumps(ut.LSPPoison(KEY, data=(IMAGES, NUMBERS)))
    monkeypatch.setattr(Parameters, "__init__", None)
    assert pickle.loads(data).known == [0, 1, 2, 3]


# ---- names ----


def test_names_of_methods_come_from_their_files():
    for name in ut.list_poisons():
        method = ut.get_poison(name)
        assert getattr(ut, method.__name__) is method
        assert method.__name__ in ut.__all__
    assert ut.list_poisons("?em") == ["rem", "sem"]
    assert ut.get_poison("chain") is ut.Chain
    assert "chain" not in ut.list_poisons()
    with pytest.raises(KeyError, match="there is no method 'smem': did you mean 'sem'"):
        ut.get_poison("smem")


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="two methods are called 'cuda'"):
        ut.poisons.base.register("cuda")(type("Other", (ut.Poison,), {}))
    assert ut.get_poison("cuda") is ut.CUDAPoison


def test_importing_the_package_imports_no_torch():
    code = "import sys, unlearnable_transforms as ut; assert 'CUDAPoison' in dir(ut); print('torch' in sys.modules)"
    assert run_python(code).strip() == "False"
