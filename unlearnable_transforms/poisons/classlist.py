"""Methods that tell classes apart by what they know of all of them: they need the class list before anything else.

It comes from ``classes=``, or ``fit`` reads the labels of the data; pictures are opened only where no list of labels
lies beside them.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self

from ..errors import UsageTypeError
from ..noise.pictures import Source
from ..params import learnt, param
from ..sample import SampleError, batch_tokens, class_token, class_tokens, class_value
from .base import Behind, Poison

BY_VALUE = 1024  # integers below it count by their value


class ClassListPoison(Poison):
    """Base of the methods that need the class list."""

    data: Any = param("take the class list from this at once", default=None, decides="work", then="fit")
    needs_key = True

    known: Any = learnt(
        "the classes that a fit has found, in that order; unlike the class list it leaves the meaning of labels alone",
        default=None,
    )

    def _prepare(self) -> None:
        super()._prepare()
        if self.known is not None:
            if self.classes is not None:
                raise UsageTypeError("known= is what fit found in other data: leave out classes=")
            self.known = [class_value(token) for token in class_tokens(self.known)]

    @property
    def fitted(self) -> bool:
        return self.known is not None or self.classes is not None

    def fit(self, data: Any, transform: Callable | None = None) -> Self:
        """Read the class list from the labels of a data set, as ``FittedPoison.fit`` takes it. Images are not read.

        Where ``classes`` was given, nothing is read.

        Raises:
            TypeError: a streaming data set, or something else that cannot be read twice.
            SampleError: a label that cannot be used; its row is named.
        """
        if self.classes is None:
            self.known = self._classes_of(Behind.split(data)[0])
        return self

    def recall(self, ids: Any, values: Sequence = ()) -> Self:
        if not self.fitted and len(values):
            self.known = sorted(set(values))
        return super().recall(ids, values)

    def extend(self, more: Any, transform: Callable | None = None) -> Self:
        """Add the classes of further data behind those that are known, which stay as they are; errors are those of
        :meth:`fit`."""
        self._ready()
        if self.known is not None:
            longer = self.known + [v for v in self._classes_of(Behind.split(more)[0]) if v not in self.known]
            class_tokens(longer)  # integers and text are not mixed
            self.known = longer
        return self

    def class_order(self) -> list[str]:
        """Tokens of all classes, in the order in which the search separates them.

        Integers below ``BY_VALUE`` count by their value, so that a class is the same whether or not the others occur in
        the data; larger ones and text follow in the order of the list: that of ``classes`` sorted, that of ``known``
        as it grew.
        """
        self._ready()
        values = self.known if self.known is not None else sorted(self.classes or [])
        small = [value for value in values if isinstance(value, int) and value < BY_VALUE]
        others = [value for value in values if not (isinstance(value, int) and value < BY_VALUE)]
        return [class_token(value) for value in [*range(max(small, default=-1) + 1), *others]]

    def _check_known(self, tokens: Sequence[str]) -> None:
        """Refuse classes that are not in the list, with the rows that have them."""
        self._ready()
        values = self.known if self.known is not None else self.classes or []
        listed = {class_token(value) for value in values}
        unknown = [row for row, token in enumerate(tokens) if token not in listed]
        if unknown:
            raise SampleError(
                f"the class {class_value(tokens[unknown[0]])!r} is not among the {len(values)} that the method knows: "
                "call poison.extend(data) with data that has it, or give the whole list as classes=",
                unknown,
            )

    def _classes_of(self, data: Any) -> list:
        """The classes of a data set, sorted."""
        source = Source(data, image_key=self.image_key, label_key=self.label_key)
        labels = [] if source.rows.labels is None else source.rows.labels
        values = [class_value(token) for token in set(batch_tokens(labels, len(labels)))]
        if not values:
            raise SampleError("the data set is empty: there are no classes in it")
        class_tokens(values)  # integers and text are not mixed
        return sorted(values)
