"""Becomes the command it is given, after asking the kernel to end it when its parent ends.

    python -I -S launch.py PARENT_PID SIGNAL COMMAND [ARGUMENT ...]

Run as a file of its own, not as a ``preexec_fn``: between fork and exec of a threaded process almost nothing is safe.
The request lasts through exec (``man 2 prctl``, PR_SET_PDEATHSIG) and not through fork: a command's own children are
the command's to end. Elsewhere than on Linux the command runs without it.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(parent: int, number: int, command: list[str]) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:
            sys.exit(1)  # the parent died before the kernel was asked
    try:
        os.execvp(command[0], command)  # noqa: S606  # a fixed argument list of shoal.processes, and no shell
    except OSError as error:
        sys.exit(f"{command[0]} cannot be started: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
