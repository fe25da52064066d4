"""Families from other packages: an entry point of the group `fathom.tasks`, loaded only when it is named.

[project.entry-points."fathom.tasks"]        in the pyproject.toml of the other package
riddles = "my_package.riddles:Riddles"       a class with the methods of Task, or an instance of one
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import cast

from fathom.errors import InputError
from fathom.tasks.task import Task

GROUP = "fathom.tasks"
METHODS = ("sample", "check", "verify", "slip")


@cache
def load(name: str) -> Task | None:
    """The task of the entry point with this name; None if no installed package has one.

    Raises: InputError: several have one, or what it points at cannot be loaded or is no Task.
    """
    found = entry_points(group=GROUP, name=name)
    if not found:
        return None
    if len(found) > 1:
        packages = ", ".join(sorted(point.dist.name if point.dist else point.value for point in found))
        raise InputError(f"{name!r} is a family of several packages ({packages}); uninstall all but one.")
    (point,) = found
    try:
        task = point.load()
        task = task() if isinstance(task, type) else task
    except Exception as error:  # code of another package may fail in any way
        raise InputError(
            f"the family {name!r} ({point.value}) cannot be loaded: {error!r}; mend its package."
        ) from error
    missing = [method for method in METHODS if not callable(getattr(task, method, None))]
    missing += [field for field in ("name", "levels") if not hasattr(task, field)]
    if missing:
        raise InputError(f"the family {name!r} ({point.value}) has no {', '.join(missing)}; see fathom.tasks.Task.")
    if task.name != name:
        raise InputError(f"the family {name!r} ({point.value}) says its name is {task.name!r}; both must be equal.")
    return cast(Task, task)
