"""Run a recipe as its own process would, and print its exit code and the libraries that it imported."""

import json
import runpy
import sys

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stopped:
        code = stopped.code
    else:
        code = 0
    print(json.dumps([code or 0, sorted({name.partition(".")[0] for name in sys.modules})]))
