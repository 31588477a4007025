"""Put the embedded tasks into a wheel: they live in `data/`, outside the package. All else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithData(build_py):
    """Copy `data/` beside the modules, as `softprompts/embedded/`; an editable installation reads it where it is."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "softprompts", "embedded")
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree("data", target)


setup(cmdclass={"build_py": BuildWithData})
