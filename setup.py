"""Copy the embedded tasks from `data/`, outside the package, into a wheel. All other settings are in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithData(build_py):
    """Copy `data/` into the package as `softprompts/embedded/`. An editable installation reads `data/` itself."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "softprompts", "embedded")
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree("data", target)


setup(cmdclass={"build_py": BuildWithData})
