"""The application in the browser: thin pages over the workbench; what they start goes on without them.

It needs the extra `app`. Names load on first use; nothing else imports nicegui.
"""

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from lossatlas.app._serve import serve as serve

__all__ = ["serve"]


def __getattr__(name: str) -> Any:
    if name == "serve":
        from lossatlas.app._serve import serve

        return serve
    msg = f"module 'lossatlas.app' has no attribute {name!r}"
    raise AttributeError(msg)
