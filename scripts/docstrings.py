"""For `make docs`: the docstrings' reStructuredText as what the site's parser and Markdown understand."""

import re
from typing import Any

import griffe


class Markdown(griffe.Extension):
    """Gives each field a line of its own, as the parser reads one per line, and takes off what Sphinx alone reads."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is None:
            return
        text = re.sub(r"(?<=\S) (?=:(param \w+|returns?|raises \w+): )", "\n", obj.docstring.value)
        text = re.sub(r":(attr|class|data|func|meth|mod):`~?", "`", text)
        obj.docstring.value = re.sub(r"(?m)^ *::$|(?<=\S:):$", "", text)
