"""Nobody outlives the process that started it.

On Linux the kernel does it (`PR_SET_PDEATHSIG`, prctl(2)); elsewhere a thread looks whether the parent is still there.
"""

import ctypes
import os
import platform
import signal
import threading
import time

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int, sig: signal.Signals = signal.SIGKILL) -> None:
    """Have this process get `sig` when the process `parent` that started it ends, however that ends.

    Call it early in the child. The parent must have started the child from a thread that lives as long as itself, and
    have noted its own id before: in the child it may be too late to ask who the parent was.
    """
    if platform.system() == "Linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        if os.getppid() != parent:
            os.kill(os.getpid(), sig)
        return
    threading.Thread(target=_watch, args=(parent, sig), name="lifeline", daemon=True).start()


def _watch(parent: int, sig: signal.Signals) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), sig)
