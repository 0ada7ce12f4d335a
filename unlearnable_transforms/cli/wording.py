"""The library's messages in the words of the command line.

A message names an argument as Python does: ``label_key=``, ``rename=True``, ``labels="auto"``. The ``dest`` of an
option is the name of that argument, so the parsers know which option to name instead. Arguments with other values stay
as they are: they belong to the description of a method, ``CUDAPoison(key=Key(...))``.
"""

import argparse
import re
from collections.abc import Iterable

_ARGUMENT = re.compile(r"""(?<![\w.?&])(\w+)=(?:(True)|"([^"]*)")?(?=[\s.,;:)]|$)""")
_DERIVE = re.compile(r"""\bkey\.derive\((?:'([^']*)'|"([^"]*)")\)""")


def in_options(text: str, parsers: Iterable[argparse.ArgumentParser]) -> str:
    """``text`` with arguments of the library named as options.

    Args:
        text: of an error, a warning or a finding.
        parsers: of the command that runs, then those of the others, whose options a remedy may name.
    """
    options: dict[str, argparse.Action] = {}
    for parser in parsers:
        for action in parser._actions:
            if action.option_strings:
                options.setdefault(action.dest, action)

    def name(match: re.Match[str]) -> str:
        argument, true, value = match.groups()
        option = options.get(argument)
        if option is None or (true and option.const is not True):
            return match[0]
        return option.option_strings[-1] + (f" {value}" if value is not None else "")

    return _DERIVE.sub(r"--derive \1\2", _ARGUMENT.sub(name, text))
