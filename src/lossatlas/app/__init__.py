"""The application in the browser: thin pages over the workbench; what they start goes on without them.

It needs the extra `app`; nothing else imports nicegui.
"""

from lossatlas.app._serve import serve as serve
