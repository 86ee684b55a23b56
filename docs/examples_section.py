"""Docstrings call their last section `Example:`; the parser of the site knows it as `Examples:`."""

import re

from griffe import Extension, Object

_HEADING = re.compile(r"^( *)Example:$", re.MULTILINE)


class ExamplesSection(Extension):
    """Show the doctest at the end of a docstring as code."""

    def on_object(self, *, obj: Object, **kwargs) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _HEADING.sub(r"\1Examples:", obj.docstring.value)
