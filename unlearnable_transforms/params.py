"""Parameters, declared once, as annotated attributes of a class:

    class StripesPoison(Poison):
        eps: float = param("strength", default=8 / 255, low=1 / 255, high=32 / 255, unit="in units of 1 = white")

From the declaration come the constructor and its checks, ``arguments()``, what may be public, the repr, the text form
``stripes:eps=4/255`` of the command line, and the tables of the docs. What ``fit`` learns is declared apart, with
:func:`learnt`: it is kept and pickled, but it is no argument.
"""

import inspect
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from fractions import Fraction
from numbers import Integral, Real
from types import UnionType
from typing import Any, ClassVar, Literal, Union, dataclass_transform, get_args, get_origin, get_type_hints

from .errors import UsageError, UsageTypeError, did_you_mean


class _Unset(Enum):
    """The value of a parameter that was not given and has no value of its own; a copy of it is the same object."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "unset"


UNSET: Any = _Unset.UNSET
KINDS = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class Param:
    """The declaration of one parameter; name and type are those of the attribute.

    Attributes:
        doc: what it is, in words that fit behind its name.
        default: its value where it is not given; ``UNSET`` where something else decides.
        low, high, above: bounds of a number, inclusive; ``above`` is exclusive.
        odd: only odd whole numbers.
        choices: names, or a function of the class that gives them. Those of a ``Literal`` need not be repeated.
        unit: of a number, as it follows the range in a message.
        secret: what is said in public instead of a value: with "filters", ``4 secret filters``.
        decides: ``bytes``, what the method makes of an image; ``columns``, which columns are read; ``work``, how a fit
            runs; ``key`` for the key alone. Only the first two are arguments, and only the first makes another method.
        then: the method to which the constructor hands the value at its end, instead of keeping it.
        omit: left out of ``arguments()`` at its default: records older than the parameter stay equal.
        alias: the argument's name where the attribute has another.
        kw_only: False for an argument that may be given by position.
        learnt: what ``fit`` learns, see :func:`learnt`.
        name, kind, none, many: from the annotation: the argument's name; float, int, bool or str, and Any for what is
            not checked and cannot be written as a text; whether None is a value; whether it is a tuple of values.
    """

    doc: str
    default: Any
    low: float | None = None
    high: float | None = None
    above: float | None = None
    odd: bool = False
    choices: Any = None
    unit: str = ""
    secret: str = ""
    decides: Literal["bytes", "columns", "work", "key"] = "bytes"
    then: str = ""
    omit: bool = False
    alias: str = ""
    kw_only: bool = True
    learnt: bool = False
    name: str = ""
    kind: Any = Any
    none: bool = True
    many: bool = False

    def check(self, value: Any, owner: type) -> Any:
        """The value as it is kept.

        Raises:
            ValueError: it is of another kind, out of range, or not among the choices.
        """
        if value is self.default or (value is None and self.none) or self.kind is Any:
            return value
        if self.many:
            if isinstance(value, str) or not isinstance(value, Iterable):
                raise UsageError(f"{self.name} is a list, each {self.rule(owner)}, got {value!r}")
            return tuple(replace(self, many=False, none=False, default=UNSET).check(each, owner) for each in value)
        known = self.options(owner)
        kind: Any = {float: Real, int: Integral}.get(self.kind, self.kind)
        fits = isinstance(value, kind) and isinstance(value, bool) <= (self.kind is bool)
        if fits and known:
            fits = value in known
        elif fits and self.kind in (float, int):
            fits = (self.low is None or value >= self.low) and (self.high is None or value <= self.high)
            fits = fits and math.isfinite(value) and (self.above is None or value > self.above)
            fits = fits and not (self.odd and value % 2 == 0)
        if not fits:
            raise UsageError(f"{self.name} is {self.rule(owner)}, got {value!r}{did_you_mean(value, known)}")
        return self.kind(value)

    @property
    def textual(self) -> bool:
        """Whether a text can name it."""
        return self.kind is not Any and not self.learnt

    def options(self, owner: type) -> list[str]:
        """The values to choose from, where they are a list."""
        return list(self.choices(owner) if callable(self.choices) else self.choices or ())

    def rule(self, owner: type) -> str:
        """What a value must be: ``a number in [1/255, 32/255], in units of 1 = white``."""
        if known := self.options(owner):
            return f"one of {', '.join(known)}"
        text = "an odd whole number" if self.odd else KINDS[self.kind]
        low, high = self.above if self.low is None else self.low, self.high
        if low is not None and high is not None:
            text += f" in {'[' if self.above is None else '('}{short(low)}, {short(high)}]"
        elif low is not None:
            text += f" {'from' if self.above is None else 'above'} {short(low)}"
        return f"{text}, {self.unit}" if self.unit else text

    def read(self, text: str) -> Any:
        """The value that a text names: ``8/255``, ``true``, ``none``, or ``0.4+0.8`` where there are many."""
        if self.none and text.lower() == "none":
            return None
        if self.many:
            return [replace(self, many=False).read(part) for part in text.split("+")]
        return text if self.kind is str else read_value(text)


def param(doc: str, *, default: Any, **rules: Any) -> Any:
    """Declare a parameter; ``rules`` are attributes of :class:`Param`."""
    return Param(doc, default, **rules)


def learnt(doc: str, *, default: Any) -> Any:
    """Declare what ``fit`` learns. The constructor takes it instead of ``data``, to use what an earlier fit left."""
    return Param(doc, default, learnt=True)


@dataclass_transform(kw_only_default=True, field_specifiers=(param, learnt))
class Parameters:
    """Base of classes whose parameters are declared with :func:`param`."""

    _declarations: ClassVar[dict[str, Param]] = {}  # by the attributes they belong to, those of base classes first
    _signature: ClassVar[inspect.Signature]
    __signature__: ClassVar[inspect.Signature | None] = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            given = self._signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise UsageTypeError(f"{type(self).__name__}: {error}") from None
        declared = self.declared().values()
        later = {each.then: given[each.name] for each in declared if each.then and given.get(each.name) is not None}
        known = [each.name for each in declared if each.learnt and given.get(each.name) is not None]
        if later and known:
            raise UsageTypeError(f"data= is what to learn from, {known[0]}= what was learnt before: give one")
        self._set(given)
        for method, value in later.items():
            getattr(self, method)(value)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        declared = [(name, value) for name, value in vars(cls).items() if isinstance(value, Param)]
        if declared and cls.__doc__:
            lines = [f"    {each.alias or name}: {each.doc}" for name, each in declared]
            cls.__doc__ = "\n".join([inspect.cleandoc(cls.__doc__), "", "Args:", *lines])
        hints, parameters = get_type_hints(cls), []
        names = {n: v for base in reversed(cls.__mro__) for n, v in vars(base).items() if isinstance(v, Param)}
        cls._declarations = {n: cls._adapted(_typed(each, each.alias or n, hints[n])) for n, each in names.items()}
        for name, each in sorted(cls._declarations.items(), key=lambda item: item[1].kw_only):
            kind = inspect.Parameter.KEYWORD_ONLY if each.kw_only else inspect.Parameter.POSITIONAL_OR_KEYWORD
            parameters.append(inspect.Parameter(each.name, kind, default=each.default, annotation=hints[name]))
        cls._signature = inspect.Signature(parameters)
        cls.__signature__ = cls._signature if cls.__init__ is Parameters.__init__ else None

    def _set(self, values: Mapping[str, Any]) -> None:
        """Check and keep values by the names of their arguments; all others get their defaults."""
        for name, each in self._declarations.items():
            if not each.then:
                setattr(self, name, each.check(values.get(each.name, each.default), type(self)))
        self._prepare()

    def _prepare(self) -> None:
        """Called with all parameters in place, by the constructor and after unpickling: checks that concern several of
        them, and what follows from them."""

    @classmethod
    def _adapted(cls, each: Param) -> Param:
        """A declaration as this class has it."""
        return each

    @classmethod
    def declared(cls) -> dict[str, Param]:
        """The parameters by the names of their arguments, what ``fit`` learns included."""
        return {each.name: each for each in cls._declarations.values()}

    def arguments(self) -> dict[str, Any]:
        """The values of the parameters as plain JSON values, but the key: equal objects give equal ones."""
        values = {}
        for name, each in self._declarations.items():
            if each.decides in ("bytes", "columns") and not (each.learnt or each.then):
                value = getattr(self, name)
                default = value is each.default or (isinstance(value, str) and value == each.default)
                if not (each.omit and default):
                    values[each.name] = list(value) if each.many and value is not None else value
        return values

    def public_arguments(self) -> dict[str, Any]:
        """Those of :meth:`arguments` that may be published: instead of a secret, how much of it there is."""
        declared = self.declared()
        return {
            name: f"{len(value)} secret {declared[name].secret}"
            if value is not None and name in declared and declared[name].secret
            else value
            for name, value in self.arguments().items()
        }

    def fitted_state(self) -> dict[str, Any]:
        """What ``fit`` has learnt, as plain JSON values; None where nothing is."""
        return {each.name: getattr(self, name) for name, each in self._declarations.items() if each.learnt}

    def __repr__(self) -> str:
        values = {**self.public_arguments(), **self.fitted_state()}
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in values.items() if v is not None)})"


def _typed(each: Param, name: str, hint: Any) -> Param:
    hints = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    none = type(None) in hints
    hint = hints[0] if len(hints) == 1 + none else Any
    many = get_origin(hint) is tuple
    hint = get_args(hint)[0] if many else hint
    choices = each.choices
    if get_origin(hint) is Literal:
        choices, hint = choices or get_args(hint), str
    return replace(each, name=name, kind=hint if hint in KINDS else Any, none=none, many=many, choices=choices)


# ---- as text ---------------------------------------------------------------------------------------------------------


def split_spec(text: str) -> list[tuple[str, dict[str, str]]]:
    """Names with arguments, as the command line takes them: ``sem:steps=2000,surrogate=resnet18``, and chains of them,
    ``cuda > sem:steps=100`` or ``cuda,sem``."""
    links: list[tuple[str, dict[str, str]]] = []
    for link in re.split(r"\s*>\s*", text.strip()):
        inside = False
        for part in link.split(","):
            if not inside or not re.match(r"[^:=]+=", part):  # else another argument of the link before
                name, colon, part = part.partition(":")
                inside = bool(colon)
                links.append((name.strip(), {}))
            if part.strip():
                argument, _, value = part.partition("=")
                links[-1][1][argument.strip()] = value.strip()
    return links


def read_arguments(owner: type[Parameters], texts: Mapping[str, str], name: str) -> dict[str, Any]:
    """The arguments of a class that texts name.

    Raises:
        ValueError: there is no such argument, or none that a text can name; or a value is wrong. It lists the choices.
    """
    known = {n: each for n, each in owner.declared().items() if each.textual}
    for argument in texts:
        if argument not in known:
            raise UsageError(
                f"{name} has no argument {argument!r}{did_you_mean(argument, known)}; it has {', '.join(known)}"
            )
    return {n: known[n].check(known[n].read(text), owner) for n, text in texts.items()}


def read_value(text: str) -> Any:
    """A number, ``8/255`` too, true or false; else the text itself."""
    if re.fullmatch(r"-?\d+/\d+", text):
        return float(Fraction(text))
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)
    except ValueError:
        return text


def short(value: Any) -> str:
    """A value as one writes it, ``8/255`` for one, and as no other value is written."""
    if isinstance(value, tuple):
        return "+".join(map(short, value))
    if not isinstance(value, float):
        return str(value)
    if 0 < value < 1 and round(value * 255) / 255 == value:
        return f"{round(value * 255)}/255"
    return f"{value:g}" if float(f"{value:g}") == value else str(value)


def argument_rows(owner: type[Parameters], *, text: bool = False) -> list[tuple[str, str, str, str]]:
    """Name, rule, default and description of the parameters; with ``text`` only of those that a text can name."""
    rows = []
    for name, each in owner.declared().items():
        if each.textual or not text:
            rule = "" if each.kind is Any else "a list, each " * each.many + each.rule(owner)
            default = "" if each.default is None or each.default is UNSET else short(each.default)
            rows.append((name, rule, default, each.doc))
    return rows


def table(owner: type[Parameters]) -> str:
    """The parameters of a class as a Markdown table."""
    rows = [("argument", "value", "default", "")] + [(f"`{n}`", *rest) for n, *rest in argument_rows(owner)]
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join([lines[0], "|---|---|---|---|", *lines[1:]])
