"""Libraries that only some data needs, imported when it is asked for: others take seconds to import, or are large."""

import importlib
from types import ModuleType

from mmjax.errors import UserError


def imported(wanted_by: str, requirements: str, *names: str) -> list[ModuleType]:
    """The modules of these names.

    Raises:
        UserError: one is not installed; `requirements` is the file that has it.
    """
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise UserError(f"{wanted_by} needs {' and '.join(names)}: pip install -r {requirements}") from error
