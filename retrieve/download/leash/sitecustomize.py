"""Runs first in each Python process of img2dataset: none outlives its parent, five redirects are followed.

In: nothing. Out: the kernel sends SIGKILL when the parent ends; urllib stops at the sixth redirect. On disk: nothing.
The folder is on the PYTHONPATH of img2dataset alone (`retrieve.download.program`). Imports only the standard library.
"""

import ctypes
import os
import signal
import urllib.request

_PR_SET_PDEATHSIG = 1
MAX_REDIRECTS = 5  # of one address; urllib's own limit is ten

urllib.request.HTTPRedirectHandler.max_redirections = MAX_REDIRECTS
ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
if os.getppid() == 1:  # it had ended before the kernel was asked
    os._exit(1)
