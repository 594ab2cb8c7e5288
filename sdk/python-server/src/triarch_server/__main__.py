"""`python -m triarch_server` is `triarch`."""

import os
import sys

from triarch_server import find_binary

if __name__ == "__main__":
    program = find_binary()
    os.execv(program, [program, *sys.argv[1:]])
