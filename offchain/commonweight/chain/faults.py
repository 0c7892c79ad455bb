"""Named places at which a test can kill a node: the list of kill points is written by the code that passes
them.

In production `fault` does nothing. With ``COMMONWEIGHT_FAULT="<point>:<effect prefix>"`` the process kills
itself with SIGKILL when it passes that point for an effect whose id starts with the prefix;
``COMMONWEIGHT_FAULT_ONCE=<path>`` makes that happen only once, by a marker file that survives the restart.
"""

from __future__ import annotations

import os
import signal

FAULT_POINTS = (
    "requested",  # nothing written yet
    "planned",  # intent written, no nonce yet
    "signed",  # raw transaction written, not sent
    "broadcast",  # sent, not yet written down
    "sent",  # sent and written down
    "mined",  # receipt known, not yet written down
    "seen",  # receipt written down
    "deep",  # deep enough, not yet written down
    "confirmed",  # final and written down
)


def fault(point: str, effect_id: str) -> None:
    """Die here when a test has asked for it; otherwise do nothing."""
    armed = os.environ.get("COMMONWEIGHT_FAULT")
    if not armed:
        return
    wanted, _, prefix = armed.partition(":")
    if wanted != point or not effect_id.startswith(prefix):
        return
    once = os.environ.get("COMMONWEIGHT_FAULT_ONCE")
    if once:
        try:
            os.close(os.open(once, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return
    os.kill(os.getpid(), signal.SIGKILL)
