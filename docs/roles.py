"""A griffe extension: Sphinx roles in docstrings become links of the site."""

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):`~?([\w.]+)`")
_CODE = re.compile(r"``([^`]+)``")


class Roles(griffe.Extension):
    """Docstrings name things as Sphinx does, and the site is Markdown."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of one module, class or function."""
        if obj.docstring:
            obj.docstring.value = _CODE.sub(r"`\1`", _ROLE.sub(r"`\1`", obj.docstring.value))
