"""What a comparison says when it cannot start."""

import importlib.util


class ComparisonError(ValueError):
    """A request that cannot be carried out; the message says what is wrong and what there is instead."""


def require(*modules: str, extra: str = "compare") -> None:
    """
    Refuse to start without an optional package, rather than fail after hours of training.

    :param modules: import names that the comparison is going to need
    :param extra: of this package, that brings them
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise ImportError(f'The comparison needs {" and ".join(missing)}: pip install "sb3-dreamer[{extra}]"')
