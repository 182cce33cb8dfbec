# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference client: identities, contacts, sealed messages and what is kept of them on disk.

For other programs, `relay.client.library` is the library, whose names are also this package's (docs/client.md);
everything else below it may change at any time.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relay.client.library import *  # noqa: F403 - its __all__, which is ours
    from relay.client.library import __all__ as __all__


def __getattr__(name: str) -> Any:
    """Return a name of the library (PEP 562). Imported when it is asked for: `relay contact` needs a sixth of it."""
    # Not `from relay.client import`, which would ask here for it.
    import relay.client.library as library  # noqa: PLC0415, PLR0402

    if name == "__all__" or name in library.__all__:
        return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
